"""LangChain and LlamaIndex over a server at FOREWORD_URL."""

import asyncio
import os

from langchain_anthropic import ChatAnthropic
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

URL = os.environ["FOREWORD_URL"]
# The model is too small to call tools by itself.
CALL = {"regex": r'<tool_call>\{"name": "add", "arguments": \{"x": [0-9]\}\}</tool_call>', "parallel_tool_calls": False}


class Fruit(BaseModel):
    """A fruit."""

    name: str
    ripe: bool


@tool
def add(x: int) -> int:
    """Adds one."""
    return x + 1


def langchain():
    common = dict(model="smol", base_url=f"{URL}/v1", api_key="secret", max_retries=0, temperature=0)
    model = ChatOpenAI(**common, max_tokens=12)
    messages = [SystemMessage("Be brief."), HumanMessage("Name three fruits.")]
    answer = model.invoke(messages)
    assert answer.content and answer.usage_metadata["output_tokens"] == 12, answer
    assert "".join(chunk.content for chunk in model.stream(messages)) == answer.content
    assert [reply.content for reply in model.batch([messages, messages])] == [answer.content] * 2
    assert asyncio.run(model.ainvoke(messages)).content == answer.content
    chain = ChatPromptTemplate.from_messages([("system", "Be brief."), ("human", "{question}")]) | model
    assert chain.invoke({"question": "Name three fruits."}).content == answer.content
    forced = ChatOpenAI(**common, max_tokens=200).with_structured_output(Fruit, method="json_schema").invoke("Describe a fruit.")
    assert isinstance(forced, Fruit), forced
    calling = ChatOpenAI(**common, max_tokens=60, extra_body=CALL).bind_tools([add])
    called = calling.invoke("Add one to 2.")
    (call,) = called.tool_calls
    assert call["name"] == "add" and isinstance(call["args"]["x"], int), called
    streamed = None
    for chunk in calling.stream("Add one to 2."):
        streamed = chunk if streamed is None else streamed + chunk
    assert streamed.tool_calls[0]["name"] == "add", streamed
    result = ToolMessage(str(add.invoke(call["args"])), tool_call_id=call["id"])
    assert isinstance(model.bind_tools([add]).invoke([HumanMessage("Add one to 2."), called, result]), AIMessage)
    required = ChatOpenAI(**common, max_tokens=100).bind_tools([add], tool_choice="add").invoke("Add one to 2.")
    assert required.tool_calls[0]["name"] == "add", required
    responses = ChatOpenAI(**common, max_tokens=12, use_responses_api=True).invoke("Name three fruits.")
    assert responses.text, responses
    vectors = OpenAIEmbeddings(model="bert", base_url=f"{URL}/v1", api_key="secret", check_embedding_ctx_length=False).embed_documents(["a", "b"])
    assert len(vectors) == 2 and isinstance(vectors[0][0], float)
    claude = ChatAnthropic(model="smol", base_url=URL, api_key="secret", max_tokens=12, max_retries=0)
    assert claude.invoke(messages).content
    assert "".join(chunk.text for chunk in claude.stream(messages))


def llama_index():
    common = dict(model="smol", api_base=f"{URL}/v1", api_key="secret", is_chat_model=True, context_window=2048, temperature=0, max_retries=0)
    model = OpenAILike(**common, max_tokens=12)
    answer = model.chat([ChatMessage(role="user", content="Name three fruits.")]).message.content
    assert answer
    pieces = [piece.delta for piece in model.stream_chat([ChatMessage(role="user", content="Name three fruits.")])]
    assert "".join(filter(None, pieces)) == answer
    assert model.complete("One, two,").text
    assert OpenAILike(**{**common, "is_chat_model": False}, max_tokens=5).complete("One, two,").text
    fruit = OpenAILike(**common, max_tokens=200, should_use_structured_outputs=True).as_structured_llm(Fruit).complete("Describe a fruit.").raw
    assert isinstance(fruit, Fruit), fruit
    calling = OpenAILike(**common, max_tokens=60, is_function_calling_model=True, additional_kwargs={"extra_body": CALL})
    function = FunctionTool.from_defaults(lambda x: x + 1, name="add", description="Adds one.")
    response = calling.chat_with_tools([function], "Add one to 2.")
    (call,) = calling.get_tool_calls_from_response(response)
    assert call.tool_name == "add", call
    embedding = OpenAILikeEmbedding(model_name="bert", api_base=f"{URL}/v1", api_key="secret", embed_batch_size=8)
    index = VectorStoreIndex.from_documents([Document(text="the dog runs"), Document(text="cats are unaffable")], embed_model=embedding)
    found = index.as_query_engine(llm=model, similarity_top_k=1).query("What does the dog do?")
    assert str(found) and len(found.source_nodes) == 1


langchain()
llama_index()
print("LangChain and LlamaIndex: all answered")
