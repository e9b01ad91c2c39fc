//! How families write calls of tools: a row a format.

/// A format of calls.
#[derive(Debug)]
pub(in crate::chat) struct Format {
    /// A text, without white space, that is in the rendering of a conversation with tools and a call.
    shown: &'static str,
    /// A token by which the format is known where the template writes no calls.
    token: Option<&'static str>,
    /// What calls begin with; with nothing, at the beginning of the answer.
    pub(super) begin: &'static [&'static str],
    /// What they end with, where they do not end by themselves.
    pub(super) end: &'static str,
    /// Further markers within.
    inner: &'static [&'static str],
    pub(super) body: Body,
    /// See [`super::AnswerReader::stop`].
    pub(super) stop: Option<&'static str>,
    pub(super) form: Form,
}

/// How calls are written where the model has to make some.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    /// In front of the first one.
    pub(super) open: &'static str,
    /// A call: [`NAME`] and [`ARGUMENTS`] stand for its own.
    pub(super) call: &'static str,
    pub(super) between: &'static str,
    /// Behind the last one.
    pub(super) close: &'static str,
}

/// Stands for the name of a tool in a [`Form`].
pub(super) const NAME: &str = "NAME";
/// Stands for the arguments of a call in a [`Form`].
pub(super) const ARGUMENTS: &str = "ARGUMENTS";

/// What is between begin and end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::chat) enum Body {
    /// Objects with `name` and `arguments` or `parameters`, one or a list of them; or a name, `[ARGS]` and an object.
    Json,
    /// The same without any marker; then only what is the name of a tool is a call.
    BareJson,
    /// `<function=NAME> <parameter=KEY> VALUE </parameter> </function>`
    Tags,
    /// Calls in Python's syntax: in a list, or a line each.
    Python,
    /// `call:NAME{KEY:VALUE}`, texts in these quotes.
    Quoted(&'static str),
    /// See [`super::harmony`].
    Harmony,
}

const FORM: Form = Form { open: "", call: r#"{"name": "NAME", "arguments": ARGUMENTS}"#, between: ", ", close: "" };
const ROW: Format =
    Format { shown: "", token: None, begin: &[], end: "", inner: &[], body: Body::Json, stop: None, form: FORM };

/// The formats; the first that is shown is taken, else the first whose token there is.
static FORMATS: [Format; 11] = [
    // gpt-oss.
    Format {
        shown: "<|channel|>",
        inner: &["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>", "<|end|>"],
        body: Body::Harmony,
        form: Form {
            open: "<|start|>assistant",
            call: "<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>ARGUMENTS",
            ..FORM
        },
        ..ROW
    },
    // Mistral, since 2025.
    Format {
        shown: "[ARGS]",
        token: Some("[ARGS]"),
        begin: &["[TOOL_CALLS]"],
        inner: &["[ARGS]", "[CALL_ID]"],
        form: Form { call: "[TOOL_CALLS]NAME[ARGS]ARGUMENTS", between: "", ..FORM },
        ..ROW
    },
    // Mistral before.
    Format {
        shown: "[TOOL_CALLS]",
        token: Some("[TOOL_CALLS]"),
        begin: &["[TOOL_CALLS]"],
        form: Form { open: "[TOOL_CALLS][", close: "]", ..FORM },
        ..ROW
    },
    // Gemma 4.
    Format {
        shown: "<|tool_call>call:",
        token: Some("<|tool_call>"),
        begin: &["<|tool_call>"],
        end: "<tool_call|>",
        inner: &[GEMMA_4],
        body: Body::Quoted(GEMMA_4),
        stop: Some("<|tool_response>"),
        form: Form { call: "<|tool_call>call:NAMEARGUMENTS<tool_call|>", between: "", ..FORM },
    },
    // FunctionGemma.
    Format {
        shown: "<start_function_call>",
        token: Some("<start_function_call>"),
        begin: &["<start_function_call>"],
        end: "<end_function_call>",
        inner: &[FUNCTION_GEMMA],
        body: Body::Quoted(FUNCTION_GEMMA),
        stop: Some("<start_function_response>"),
        form: Form { call: "<start_function_call>call:NAMEARGUMENTS<end_function_call>", between: "", ..FORM },
    },
    // LFM2.
    Format {
        shown: "<|tool_call_start|>",
        token: Some("<|tool_call_start|>"),
        begin: &["<|tool_call_start|>"],
        end: "<|tool_call_end|>",
        body: Body::Python,
        form: Form { open: "<|tool_call_start|>[", call: "NAMEARGUMENTS", close: "]<|tool_call_end|>", ..FORM },
        ..ROW
    },
    // Qwen3-Coder, Qwen3.5, Nemotron 3.
    Format {
        shown: "<tool_call><function=",
        begin: &["<tool_call>"],
        end: "</tool_call>",
        body: Body::Tags,
        form: Form { call: "<tool_call>\n<function=NAME>\nARGUMENTS</function>\n</tool_call>", between: "\n", ..FORM },
        ..ROW
    },
    // Hermes, Qwen, Granite 4, SmolLM3.
    Format {
        shown: "<tool_call>{",
        token: Some("<tool_call>"),
        begin: &["<tool_call>"],
        end: "</tool_call>",
        form: Form {
            call: "<tool_call>\n{\"name\": \"NAME\", \"arguments\": ARGUMENTS}\n</tool_call>",
            between: "\n",
            ..FORM
        },
        ..ROW
    },
    // Phi-4-mini, Granite 3.
    Format {
        shown: "<|tool_call|>",
        token: Some("<|tool_call|>"),
        begin: &["<|tool_call|>"],
        end: "<|/tool_call|>",
        form: Form { open: "<|tool_call|>[", close: "]<|/tool_call|>", ..FORM },
        ..ROW
    },
    // SmolLM3's tools in Python.
    Format {
        shown: "'<code>'and'</code>'",
        begin: &["<code>"],
        end: "</code>",
        body: Body::Python,
        form: Form { open: "<code>", call: "NAMEARGUMENTS", between: "\n", close: "</code>" },
        ..ROW
    },
    // Llama 3.
    Format {
        shown: "{\"name\":\"xqzname\",\"parameters\":",
        begin: &["<|python_tag|>"],
        body: Body::BareJson,
        form: Form { call: r#"{"name": "NAME", "parameters": ARGUMENTS}"#, between: "; ", ..FORM },
        ..ROW
    },
];

const GEMMA_4: &str = "<|\"|>";
const FUNCTION_GEMMA: &str = "<escape>";

/// The format in channels.
pub(super) fn harmony() -> &'static Format {
    &FORMATS[0]
}

impl Format {
    /// The format that a rendering with tools and a call shows; `has` says whether there is a token.
    pub(in crate::chat) fn find(rendering: &str, has: &dyn Fn(&str) -> bool) -> Option<&'static Format> {
        let solid: String = rendering.chars().filter(|c| !c.is_whitespace()).collect();
        let by_token = || FORMATS.iter().find(|format| format.token.is_some_and(has));
        FORMATS.iter().find(|format| solid.contains(format.shown)).or_else(by_token)
    }

    /// All markers.
    pub(super) fn markers(&self) -> impl Iterator<Item = &'static str> {
        let end = Some(self.end).filter(|end| !end.is_empty());
        self.begin.iter().copied().chain(end).chain(self.inner.iter().copied()).chain(self.stop)
    }
}
