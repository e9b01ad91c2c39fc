//! Templates that write calls of tools as families do.

use foreword::chat::ChatTemplate;

/// How families write calls: name, what stands for them in a template, what two calls are written as.
pub const FORMATS: [(&str, &str); 12] = [
    (
        "hermes",
        "{% for c in calls %}\n<tool_call>\n{\"name\": \"{{ c.name }}\", \"arguments\": {{ c.arguments | tojson }}}\n</tool_call>{% endfor %}",
    ),
    (
        "qwen coder",
        "{% for c in calls %}\n<tool_call>\n<function={{ c.name }}>\n{% for k, v in c.arguments.items() %}<parameter={{ k }}>\n{{ v if v is string else v | tojson }}\n</parameter>\n{% endfor %}</function>\n</tool_call>{% endfor %}",
    ),
    (
        "llama",
        "{% for c in calls %}{\"name\": \"{{ c.name }}\", \"parameters\": {{ c.arguments | tojson }}}{{ '; ' if not loop.last }}{% endfor %}",
    ),
    (
        "mistral",
        "[TOOL_CALLS][{% for c in calls %}{\"name\": \"{{ c.name }}\", \"arguments\": {{ c.arguments | tojson }}, \"id\": \"abcdefghi\"}{{ ', ' if not loop.last }}{% endfor %}]",
    ),
    (
        "mistral 2506",
        "{% for c in calls %}[TOOL_CALLS]{{ c.name }}[CALL_ID]abcdefghi[ARGS]{{ c.arguments | tojson }}{% endfor %}",
    ),
    ("mistral 2512", "{% for c in calls %}[TOOL_CALLS]{{ c.name }}[ARGS]{{ c.arguments | tojson }}{% endfor %}"),
    (
        "lfm2",
        "<|tool_call_start|>[{% for c in calls %}{{ c.name }}({% for k, v in c.arguments.items() %}{{ k }}={{ v | tojson | replace('null', 'None') | replace('true', 'True') }}{{ ', ' if not loop.last }}{% endfor %}){{ ', ' if not loop.last }}{% endfor %}]<|tool_call_end|>",
    ),
    (
        "gemma 4",
        "{% macro say(v) %}{% if v is string %}<|\"|>{{ v }}<|\"|>{% elif v is mapping %}{ {%- for k, x in v.items() %}{{ k }}:{{ say(x) }}{{ ',' if not loop.last }}{% endfor %}}{% elif v is iterable %}[{% for x in v %}{{ say(x) }}{{ ',' if not loop.last }}{% endfor %}]{% else %}{{ v | tojson }}{% endif %}{% endmacro %}{% for c in calls %}<|tool_call>call:{{ c.name }}{{ say(c.arguments) }}<tool_call|>{% endfor %}",
    ),
    (
        "functiongemma",
        "{% macro say(v) %}{% if v is string %}<escape>{{ v }}<escape>{% elif v is mapping %}{ {%- for k, x in v.items() %}{{ k }}:{{ say(x) }}{{ ',' if not loop.last }}{% endfor %}}{% elif v is iterable %}[{% for x in v %}{{ say(x) }}{{ ',' if not loop.last }}{% endfor %}]{% else %}{{ v | tojson }}{% endif %}{% endmacro %}{% for c in calls %}<start_function_call>call:{{ c.name }}{{ say(c.arguments) }}<end_function_call>{% endfor %}",
    ),
    (
        "phi-4-mini",
        "<|tool_call|>[{% for c in calls %}{\"name\": \"{{ c.name }}\", \"arguments\": {{ c.arguments | tojson }}}{{ ', ' if not loop.last }}{% endfor %}]<|/tool_call|>",
    ),
    (
        "granite 3",
        "<|tool_call|>[{% for c in calls %}{\"name\": \"{{ c.name }}\", \"arguments\": {{ c.arguments | tojson }}}{{ ', ' if not loop.last }}{% endfor %}]",
    ),
    (
        "gpt-oss",
        "{% for c in calls %}{{ '<|start|>assistant' if not loop.first }} to=functions.{{ c.name }}<|channel|>commentary json<|message|>{{ c.arguments | tojson }}{{ '<|end|>' if not loop.last }}{% endfor %}",
    ),
];

/// A template that writes calls in this form.
pub fn template(calls: &str) -> ChatTemplate {
    let source = format!(
        "{{% for m in messages %}}<{{{{ m.role }}}}>{{{{ m.content or '' }}}}{{% if m.tool_calls %}}{{% set calls = \
         m.tool_calls | map(attribute='function') | list %}}{calls}{{% endif %}}</{{{{ m.role }}}}>{{% endfor %}}\
         {{{{ tools | length if tools }}}}{{% if enable_thinking %}}{{% endif %}}"
    );
    ChatTemplate::new(&source, "", "").expect("a template")
}
