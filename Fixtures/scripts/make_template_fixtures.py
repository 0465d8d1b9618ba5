"""Chat templates that use each construct as the families of models do, and what transformers makes of them.

Writes Fixtures/chat: NAME.jinja with the cases of NAME.json, and expressions.json with small templates of their own.
"""

import datetime
import json
import os
import time
from pathlib import Path

os.environ["TZ"] = "UTC"
time.tzset()

import transformers.utils.chat_template_utils as utils

ROOT = Path(__file__).resolve().parent.parent / "chat"
NOW = 1779969600  # noon of a day, so that its date is the same in most places


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(NOW)


utils.datetime = Clock


def render(template, messages, **options):
    try:
        text, _ = utils.render_jinja_template(
            [json.loads(json.dumps(messages))],
            tools=options.get("tools"),
            documents=options.get("documents"),
            chat_template=template,
            add_generation_prompt=not options.get("continue", False),
            continue_final_message=options.get("continue", False),
            **options.get("arguments", {}),
        )
        return {"text": text[0]}
    except Exception:
        return {"fails": True}


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


def system(content):
    return {"role": "system", "content": content}


def call(name, arguments):
    return {"id": "call00001", "type": "function", "function": {"name": name, "arguments": arguments}}


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The \"weather\" <now> & later",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Citt\u00e0"},
                "unit": {"type": "string", "enum": ["c", "f"], "default": "c"},
                "options": {"type": "object", "properties": {"deep": {"type": "array", "items": {"type": "string"}}}},
                "maybe": {"type": ["string", "null"]},
            },
            "required": ["city"],
        },
    },
}
EMPTY = {"type": "function", "function": {"name": "nothing", "description": "", "parameters": {"type": "object", "properties": {}}}}

CASES = [
    ([user("Hello")], {}),
    ([system("Be kind."), user("Hi"), assistant("Hey"), user("More?")], {}),
    ([system(""), user("e\u0301 \u00e9 \U0001f600 a\r\nb"), assistant(""), user("  spaced \n\n")], {}),
    ([user("w"), assistant("", tool_calls=[call("weather", {"city": "R\"o'me", "days": 3, "f": 1.5, "b": True, "n": None, "l": [1, "a"]})]),
      {"role": "tool", "content": "{\"t\": 20}", "tool_call_id": "call00001", "name": "weather"}, assistant("20"), user("thanks")],
     {"tools": [WEATHER, EMPTY]}),
    ([user("w"), assistant("now", tool_calls=[call("weather", "{\"city\": \"Rome\"}")])], {"tools": [WEATHER]}),
    ([user("t"), assistant("4", reasoning_content="two and two\n"), user("t"), assistant("<think>\nhm\n</think>\n\nfour"), user("ok")], {}),
    ([user("t"), assistant("4", thinking="two and two")], {}),
    ([user("q")], {"arguments": {"enable_thinking": False, "reasoning_effort": "high"}}),
    ([user([{"type": "text", "text": "look "}, {"type": "image", "url": "x"}, {"type": "text", "text": "here"}]), assistant([{"type": "text", "text": "nice"}]), user("and?")], {}),
    ([user("d")], {"documents": [{"title": "One", "text": "First"}, {"title": "Zwei", "text": "<two>"}]}),
    ([user("Hi"), assistant("Sure, here is ")], {"continue": True}),
    ([user("a"), user("b")], {}),
]

TEMPLATES = {
    # Qwen 3: namespaces, a list from behind, texts divided at a tag.
    "thinking": """{%- if tools %}
    {{- '<|start|>system\\n' }}{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- "# Tools\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}{{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|end|>\\n" }}
{%- elif messages[0].role == 'system' %}
    {{- '<|start|>system\\n' + messages[0].content + '<|end|>\\n' }}
{%- endif %}
{%- set ns = namespace(searching=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == "user" and message.content is string and not(message.content.startswith('<result>') and message.content.endswith('</result>')) %}
        {%- set ns.searching = false %}{%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}{%- set content = message.content %}{%- else %}{%- set content = '' %}{%- endif %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|start|>' + message.role + '\\n' + content + '<|end|>\\n' }}
    {%- elif message.role == 'assistant' %}
        {%- set reasoning = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or reasoning) %}
            {{- '<|start|>assistant\\n<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|start|>assistant\\n' + content }}
        {%- endif %}
        {%- for call in message.tool_calls or [] %}
            {%- if call.function %}{%- set call = call.function %}{%- endif %}
            {{- '\\n<call>{"name": "' ~ call.name ~ '", "arguments": ' }}
            {%- if call.arguments is string %}{{- call.arguments }}{%- else %}{{- call.arguments | tojson }}{%- endif %}
            {{- '}</call>' }}
        {%- endfor %}
        {{- '<|end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}{{- '<|start|>user' }}{%- endif %}
        {{- '\\n<result>\\n' }}{{- content }}{{- '\\n</result>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start|>assistant\\n' }}{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}
""",
    # Qwen Coder: a macro with a parameter that may be none, and keys that are not known beforehand.
    "coder": """{% macro extra(object, known) %}
    {%- if object is mapping %}
        {%- for key in object if key not in known %}
            {%- if object[key] is mapping or (object[key] is sequence and object[key] is not string) %}
                {{- '\\n<' ~ key ~ '>' ~ (object[key] | tojson | safe) ~ '</' ~ key ~ '>' }}
            {%- else %}
                {{- '\\n<' ~ key ~ '>' ~ (object[key] | string) ~ '</' ~ key ~ '>' }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
{% endmacro %}
{%- if not tools is defined %}{%- set tools = [] %}{%- endif %}
{%- for tool in tools or [] %}
    {%- set tool = tool.function if tool.function is defined else tool %}
    {{- "<function>" ~ tool.name }}
    {%- for name, fields in tool.parameters.properties | items %}
        {{- '\\n<parameter>' ~ name }}{{- extra(fields, ['type', 'description']) }}
    {%- endfor %}
    {{- extra(tool.parameters, ['type', 'properties']) }}
    {{- "</function>\\n" }}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == "assistant" and message.tool_calls is defined and message.tool_calls is iterable and message.tool_calls | length > 0 %}
        {{- message.role }}
        {%- if message.content is defined and message.content is string and message.content | trim | length > 0 %}{{- '\\n' + message.content | trim + '\\n' }}{%- endif %}
        {%- for call in message.tool_calls %}
            {%- set call = call.function %}
            {{- '\\n<function=' + call.name + '>' }}
            {%- for name, value in (call.arguments | items if call.arguments is mapping else []) %}
                {{- '\\n<parameter=' + name + '>' }}{%- set value = value | tojson | safe if value is mapping or (value is sequence and value is not string) else value | string %}{{- value }}
            {%- endfor %}
        {%- endfor %}
    {%- else %}
        {{- message.role ~ ': ' ~ message.content ~ '\\n' }}
    {%- endif %}
{%- endfor %}
""",
    # gpt-oss: macros that call themselves, with defaults; the date; exceptions.
    "channels": """{#- types of TypeScript -#}
{%- macro kind(spec, required, extra=false) -%}
    {%- if spec.type == "array" -%}
        {%- if spec['items'] -%}{{- kind(spec['items'], required) + '[]' }}{%- else -%}any[]{%- endif -%}
    {%- elif spec.type is defined and spec.type is iterable and spec.type is not string and spec.type is not mapping -%}
        {{- spec.type | join(' | ') }}
    {%- elif spec.enum is defined -%}
        {{- '"' + spec.enum|join('" | "') + '"' -}}
    {%- elif spec.type == "object" and spec.properties -%}
        {{- "{\\n" }}
        {%- for name, inner in spec.properties.items() -%}
            {{- '// ' + (inner.description | default('no words')) + '\\n' if extra or inner.description }}
            {{- name + ('?' if name not in (required or []) else '') + ': ' + kind(inner, inner.required or []) + (', ' if not loop.last else ',\\n') -}}
        {%- endfor -%}
        {{- '}' }}
    {%- else -%}{{- spec.type | default('any', true) -}}{%- endif -%}
{%- endmacro -%}
{%- macro start(identity='a model', date=strftime_now("%Y-%m-%d")) -%}
    {{- "You are " ~ identity ~ ".\\nDate: " + date + "\\n" }}
    {%- if reasoning_effort is not defined %}{%- set reasoning_effort = "medium" %}{%- endif %}
    {{- "Reasoning: " + reasoning_effort + "\\n" }}
{%- endmacro -%}
{{- "<|start|>system<|message|>" }}{{- start() }}{{- "<|end|>" }}
{%- if messages[0].role in ["developer", "system"] %}
    {%- set intro = messages[0].content %}{%- set loop_messages = messages[1:] %}
{%- else %}{%- set intro = "" %}{%- set loop_messages = messages %}{%- endif %}
{%- if intro or tools %}
    {{- "<|start|>developer<|message|>" }}{%- if intro %}{{- intro }}{%- endif %}
    {%- if tools -%}
        {%- for tool in tools %}{%- set tool = tool.function %}
            {{- "\\ntype " + tool.name + " = (_: " + kind(tool.parameters, tool.parameters.required, extra=true) + ") => any;" }}
        {%- endfor %}
    {%- endif -%}
    {{- "<|end|>" }}
{%- endif %}
{%- set last = namespace(name=none) %}
{%- for message in loop_messages -%}
    {%- if message.role == 'assistant' -%}
        {%- if "content" in message and "<think>" in message.content -%}{{- raise_exception("thoughts in the content") }}{%- endif -%}
        {%- if message.tool_calls -%}
            {%- set call = message.tool_calls[0].function %}
            {%- if message.content and message.thinking %}{{- raise_exception("both") }}{%- endif %}
            {{- "<|start|>assistant to=functions." ~ call.name ~ "<|message|>" ~ (call.arguments if call.arguments is string else call.arguments|tojson) ~ "<|call|>" }}
            {%- set last.name = call.name %}
        {%- elif loop.last and not add_generation_prompt -%}
            {%- if "thinking" in message %}{{- "<|channel|>analysis<|message|>" + message.thinking + "<|end|>" }}{%- endif %}
            {{- "<|start|>assistant<|channel|>final<|message|>" + message.content + "<|return|>" }}
        {%- else -%}
            {{- "<|start|>assistant<|channel|>final<|message|>" + message.content + "<|end|>" }}{%- set last.name = none %}
        {%- endif -%}
    {%- elif message.role == 'tool' -%}
        {%- if last.name is none %}{{- raise_exception("a result without a call") }}{%- endif %}
        {{- "<|start|>functions." + last.name + "<|message|>" + message.content|tojson + "<|end|>" }}
    {%- else -%}
        {{- "<|start|>user<|message|>" + message.content|string + "<|end|>" }}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|start|>assistant{%- endif -%}
""",
    # Gemma 3 and 4: macros over dictionaries in order, block sets, filters of texts.
    "turns": """{%- macro argument(value, escape_keys=True) -%}
    {%- if value is string -%}{{- '<|"|>' + value + '<|"|>' -}}
    {%- elif value is boolean -%}{{- 'true' if value else 'false' -}}
    {%- elif value is mapping -%}
        {{- '{' -}}{%- set ns = namespace(found=false) -%}
        {%- for key, inner in value | dictsort -%}
            {%- if ns.found %},{% endif -%}{%- set ns.found = true -%}
            {%- if escape_keys -%}{{- '<|"|>' + key + '<|"|>' -}}{%- else -%}{{- key -}}{%- endif -%}:{{- argument(inner, escape_keys=escape_keys) -}}
        {%- endfor -%}{{- '}' -}}
    {%- elif value is sequence -%}
        {{- '[' -}}{%- for item in value -%}{{- argument(item, escape_keys=escape_keys) -}}{%- if not loop.last %},{% endif -%}{%- endfor -%}{{- ']' -}}
    {%- else -%}{{- value -}}{%- endif -%}
{%- endmacro -%}
{%- macro without_thoughts(text) -%}
    {%- set ns = namespace(result='') -%}
    {%- for part in text.split('</think>') -%}
        {%- if '<think>' in part -%}{%- set ns.result = ns.result + part.split('<think>')[0] -%}{%- else -%}{%- set ns.result = ns.result + part -%}{%- endif -%}
    {%- endfor -%}{{- ns.result | trim -}}
{%- endmacro -%}
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first_user_prefix = (messages[0]['content'] if messages[0]['content'] is string else messages[0]['content'][0]['text']) + '\\n\\n' -%}{%- set loop_messages = messages[1:] -%}
{%- else -%}{%- set first_user_prefix = "" -%}{%- set loop_messages = messages -%}{%- endif -%}
{%- for tool in tools or [] %}{{ '<tool>' ~ argument(tool['function'], escape_keys=False) ~ '</tool>' }}{% endfor -%}
{%- for message in loop_messages -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {%- if role == 'tool' %}{%- continue %}{%- endif %}
    {%- set turn -%}
        {%- if message['content'] is string -%}{{ without_thoughts(message['content']) if role == 'model' else message['content'] | trim }}
        {%- elif message['content'] is iterable -%}
            {%- for item in message['content'] -%}{%- if item['type'] == 'image' -%}<image>{%- elif item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}{%- endfor -%}
        {%- else -%}{{ raise_exception("no content") }}{%- endif -%}
    {%- endset -%}
    {{ '<turn>' + role + '\\n' + (first_user_prefix if loop.first else "") ~ turn ~ '</turn>\\n' }}
    {%- for call in message['tool_calls'] or [] %}{{ '<call>' ~ call['function']['name'] ~ argument(call['function']['arguments']) }}{% endfor -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<turn>model\\n' }}{%- endif -%}
""",
    # GLM and MiniMax: a macro for visible text, loops over pairs, text between tags that is not trimmed.
    "visible": """[gMASK]<sop>
{%- macro visible(content) -%}
    {%- if content is string -%}{{- content }}
    {%- elif content is iterable and content is not mapping -%}{%- for item in content -%}{%- if item is mapping and item.type == 'text' -%}{{- item.text }}{%- elif item is string -%}{{- item }}{%- endif -%}{%- endfor -%}
    {%- else -%}{{- content }}{%- endif -%}
{%- endmacro -%}
{%- if tools -%}
<|system|>
<tools>
{% for tool in tools %}
{{ tool | tojson(ensure_ascii=False) }}
{% endfor %}
</tools>{%- endif -%}
{% for m in messages %}
{%- if m.role == 'user' -%}<|user|>
{{ visible(m.content) }}
{{- '/nothink' if (enable_thinking is defined and not enable_thinking and not visible(m.content).endswith("/nothink")) else '' -}}
{%- elif m.role == 'assistant' -%}
<|assistant|>
{%- set content = visible(m.content) %}
{{ '\\n<think>' ~ (m.reasoning_content.strip() if m.reasoning_content is string else '') ~ '</think>' }}
{%- if content.strip() -%}{{ '\\n' + content.strip() }}{%- endif -%}
{% for tc in m.tool_calls or [] %}
{%- if tc.function %}{% set tc = tc.function %}{% endif %}
{{ '\\n<tool_call>' + tc.name }}
{% set _args = tc.arguments %}
{% if _args is mapping %}{% for k, v in _args.items() %}
<arg_key>{{ k }}</arg_key>
<arg_value>{{ v | tojson(ensure_ascii=False) if v is not string else v }}</arg_value>
{% endfor %}{% endif %}
</tool_call>{% endfor %}
{%- elif m.role == 'tool' -%}
{% if loop.first or (messages[loop.index0 - 1].role != "tool") %}<|observation|>{% endif %}
<tool_response>
{{ m.content }}
</tool_response>
{%- elif m.role == 'system' -%}
<|system|>
{{ visible(m.content) }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    <|assistant|>{{- '\\n<think></think>' if (enable_thinking is defined and not enable_thinking) else '' -}}
{%- endif -%}
""",
    # Mistral: roles that alternate, filters that choose, slices of texts, tuples.
    "alternating": """{{- bos_token }}
{%- if messages[0]["role"] == "system" %}{%- set system_message, loop_messages = messages[0]["content"], messages[1:] %}{%- else %}{%- set loop_messages = messages %}{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace(index=0) %}
{%- for message in loop_messages if message.role not in ["tool", "tool_results"] and not message.get("tool_calls") %}
    {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}{{- raise_exception("Roles must alternate: " + message["role"]) }}{%- endif %}
    {%- set ns.index = ns.index + 1 %}
{%- endfor %}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[TOOLS] [" }}
            {%- for tool in tools %}
                {%- for key, val in tool.function.items() if key != "return" %}
                    {%- if val is string %}{{- '"' + key + '": "' + val + '"' }}{%- else %}{{- '"' + key + '": ' + val|tojson }}{%- endif %}{%- if not loop.last %}{{- ", " }}{%- endif %}
                {%- endfor %}
            {%- endfor %}{{- "]" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}{{- "[INST] " + system_message + "\\n\\n" + message["content"]|string + "[/INST]" }}{%- else %}{{- "[INST] " ~ message["content"] ~ "[/INST]" }}{%- endif %}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {%- for call in message.tool_calls %}{%- set out = call.function|tojson %}{{- out[:-1] }}{{- ', "id": "' + call.id[-3:] + '"}' }}{%- endfor %}
    {%- elif message["role"] == "assistant" %}{{- " " ~ message["content"]|trim ~ eos_token }}
    {%- elif message["role"] in ["tool_results", "tool"] %}{{- '[RESULTS] {"content": ' + message.content|string + ', "id": "' + message.tool_call_id[-9:] + '"}' }}
    {%- endif %}
{%- endfor %}
""",
    # Command R: documents, call blocks, keyword arguments, a dictionary of counts, break.
    "documents": """{%- macro section(title, level=2) -%}
{{ '#' * level }} {{ title | title }}
{{ caller(level) if caller is defined else '' }}
{% endmacro -%}
{%- macro type_of(spec) -%}{{ {'string': 'str', 'object': 'Dict', 'array': 'List'}.get(spec.type if spec.type is string else 'x', 'Any') }}{%- endmacro -%}
{%- call(level) section('safety preamble') %}You are {{ 'here' | upper }} at {{ level }}.{% endcall %}
{%- for tool in tools or [] %}
def {{ tool.function.name }}({% for name, spec in tool.function.parameters.properties.items() %}{{ name }}: {{ type_of(spec) }}{{ ", " if not loop.last }}{% endfor %}) -> List[Dict]:
    {{ tool.function.description | indent(4) }}
{%- endfor %}
{%- if documents %}
{%- call section(title='documents', level=1) %}{{ documents | length }} given{% endcall %}
{%- for document in documents %}
Document: {{ loop.index0 }}
{% for key, value in document.items() %}
{{ key | title }}: {{ value | e }}
{%- endfor %}
{%- endfor %}
{%- endif %}
{%- for message in messages %}
{%- if loop.index > 4 %}{{ '...' }}{% break %}{%- endif %}
{%- filter trim %}
   {{ message.role | upper }}: {% if message.content is string %}{{ message.content | replace("\\n", " ") }}{% else %}{{ message.content | map(attribute='type') | join('+') }}{% endif %}

{% endfilter %}
{{ loop.cycle('odd', 'even') }} {{ loop.previtem.role if loop.previtem is defined else 'none' }} {{ loop.nextitem.role if loop.nextitem is defined else 'end' }} {{ loop.changed(message.role) }}
{%- else %}no messages
{%- endfor %}
{{- messages | map(attribute='role') | unique | list }} {{ messages | groupby('role') | map('first') | join(',') }}
""",
    # Llama 3.1 and 3.2: a date that may be given, functions as names, tools in the first user's message.
    "dated": """{{- bos_token }}
{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}
{%- if not tools_in_user_message is defined %}{%- set tools_in_user_message = true %}{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content']|trim %}{%- set messages = messages[1:] %}{%- else %}{%- set system_message = "" %}{%- endif %}
{{- "<|header|>system\\n\\nToday: " + date_string + "\\n\\n" }}{{- system_message }}{{- "<|eot|>" }}
{%- if tools_in_user_message and not tools is none %}
    {%- if messages | length != 0 %}{%- set first = messages[0]['content']|trim %}{%- set messages = messages[1:] %}{%- else %}{{- raise_exception("no user message") }}{%- endif %}
    {{- '<|header|>user\\n\\n' }}{%- for t in tools %}{{- t | tojson(indent=4) }}{{- "\\n\\n" }}{%- endfor %}{{- first + "<|eot|>" }}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|header|>' + message['role'] + '\\n\\n' ~ message['content'] | trim + '<|eot|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}{{- raise_exception("one call") }}{%- endif %}
        {%- set call = message.tool_calls[0].function %}{{- '{"name": "' + call.name + '", "parameters": ' }}{{- call.arguments | tojson }}{{- "}<|eot|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|header|>ipython\\n\\n" }}{%- if message.content is mapping or message.content is iterable %}{{- message.content | tojson }}{%- else %}{{- message.content }}{%- endif %}{{- "<|eot|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{% generation %}{{- '<|header|>assistant\\n\\n' }}{% endgeneration %}{%- endif %}
""",
    # Kimi and DeepSeek: namespaces as switches, macros that write calls, lists that grow.
    "switches": """{%- macro calls(message) -%}
<|calls|>{%- for call in message['tool_calls'] -%}{%- set id = call['id'] if 'id' in call else loop.index -%}<|call|>{{ id }}<|arg|>{% if call['function']['arguments'] is string %}{{ call['function']['arguments'] }}{% else %}{{ call['function']['arguments'] | tojson }}{% endif %}<|end|>{%- endfor -%}<|done|>
{%- endmacro -%}
{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}
{% set ns = namespace(is_first=true, is_tool=false, system_prompt='', kept=[]) %}
{%- for message in messages %}{%- if message['role'] == 'system' %}{%- if ns.is_first %}{% set ns.system_prompt = ns.system_prompt + message['content'] %}{% set ns.is_first = false %}{%- else %}{% set ns.system_prompt = ns.system_prompt + '\\n\\n' + message['content'] %}{%- endif %}{%- else %}{% set ns.kept = ns.kept + [message] %}{%- endif %}{%- endfor %}
{{ bos_token }}{{ ns.system_prompt }}
{%- for message in ns.kept %}
{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{{ '<|User|>' + (message['content'] if message['content'] is string else message['content'] | selectattr('type', 'equalto', 'text') | map(attribute='text') | join('')) }}
{%- elif message['role'] == 'assistant' and 'tool_calls' in message and message['tool_calls'] %}{{ '<|Assistant|>' }}{{ calls(message) }}
{%- elif message['role'] == 'assistant' %}{% set content = message['content'] %}{% if content is string and '</think>' in content %}{% set content = content.split('</think>', 1)[-1] %}{% endif %}{{ '<|Assistant|>' ~ content ~ '<|eos|>' }}
{%- elif message['role'] == 'tool' %}{%- set ns.is_tool = true -%}{{ '<|result|>' + message['content'] }}
{%- endif %}
{%- endfor %}
{% if add_generation_prompt and not ns.is_tool %}{{ '<|Assistant|>' }}{% if thinking is not defined or not thinking %}</think>{% endif %}{% endif %}
""",
}

TEXTS = [
    # white space
    "a\n  {% if true %}\n b\n  {% endif %}\nc\n\n", "a {%- if true -%} b {%- endif -%} c", "a\n {%+ if true +%}\n b{% endif %}", "  {{ 1 }}\n  {#- x -#}\n y ",
    "{% raw %}\n {{ x }} {% endraw %}\nz", "a\r\nb\rc", "x {# c #}\ny", "  {# c #}\ny", "{% set x = 1 %}\n\n{{ x }}\n", "\t {%- raw -%} {% a %} {%- endraw %}\nb", "{{ '}}' }}{{ \"{% x %}\" }}",
    "{%- set x = 1 -%}\n  \n{{- x -}}\n \n", "\n\n", "", "{{ 'a' -}}\n  \n b", "\u00a0{%- if true %} x{% endif %}",
    # literals
    "{{ 1_000 }} {{ 0x1F }} {{ 0b11 }} {{ 0o17 }} {{ 1.5e3 }} {{ 1e16 }} {{ 1e-5 }} {{ 0.1 + 0.2 }} {{ 3.0 }} {{ 1e22 }} {{ 123456789012345680.0 }}", "{{ 'a' 'b' }}", "{{ '\\x41\\u00e9\\U0001F600\\n\\101\\q' }}",
    "{{ 'it\\'s' }} {{ \"q\\\"\" }}", "{{ true }} {{ True }} {{ none }} {{ None }} {{ false }}", "{{ (1,) }} {{ () }} {{ 1, 2 }} {{ [1, [2]] }} {{ {'a': 1, 2: none} }}",
    # repr
    "{{ ['a', \"it's\", 'q\"', '\\'\"', 'n\\nt\\t\\\\', '\u00e9', '\\x00', '\\u200b', '\\u2028', '\\U0001F600'] }}", "{{ {'a': {'b': [1.0, true, none]}} }}", "{{ {'a': 1}.items() }} {{ {'a': 1}.keys() }} {{ {'a': 1}.values() }}", "{{ range(3) }} {{ range(1, 7, 2) }}", "{{ namespace(a=1) }}",
    "{{ ('a' | safe, 1) }}", "{{ [x] }}",
    # arithmetic
    "{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % -3 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ -2 ** 2 }} {{ 2 ** 3 ** 2 }}", "{{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 7.5 % -2 }} {{ 1e308 * 10 }} {{ -1e308 * 10 }}", "{{ true + 1 }} {{ true == 1 }} {{ 1.0 == 1 }} {{ '1' == 1 }} {{ none == false }}", "{{ 'ab' * 3 }} {{ 3 * [1] }} {{ (1,) * 2 }} {{ 'x' * -1 }}", "{{ 1 + 'a' }}", "{{ 'a' + 1 }}", "{{ 1 // 0 }}", "{{ 1 / 0 }}", "{{ [1] + (2,) }}", "{{ 1 ~ 'a' ~ none ~ [1] }}", "{{ +1 }} {{ -true }} {{ --1 }}", "{{ -'a' }}", "{{ 10 - 2 - 3 }} {{ 2 + 3 * 4 }} {{ (2 + 3) * 4 }}", "{{ 1 - 1 ~ 2 }}",
    # comparison
    "{{ 1 < 2 < 3 }} {{ 3 > 2 > 2 }} {{ 1 < 2 == true }}", "{{ 'a' < 'b' }} {{ 'B' < 'a' }} {{ [1, 2] < [1, 3] }} {{ (1,) < (1, 0) }}", "{{ 1 < 'a' }}", "{{ none < 1 }}", "{{ 'e\u0301' == '\u00e9' }} {{ 'e\u0301'|length }} {{ 'e' in 'e\u0301' }}", "{{ 'a\r\nb'|replace('\n', ' ') }}", "{{ 'a' in 'abc' }} {{ 1 in [1.0] }} {{ 'a' in {'a': 1} }} {{ 'x' not in 'abc' }} {{ '' in 'a' }}", "{{ 1 in 'a' }}", "{{ 1 in none }}", "{{ {'a': 1, 'b': 2} == {'b': 2, 'a': 1} }} {{ [1] == (1,) }} {{ range(2) == range(0, 2, 1) }}", "{{ 5 in range(0, 10, 5) }} {{ 3 in range(0, 10, 2) }} {{ 2.0 in range(3) }}", "{{ not 1 == 2 }} {{ not not 1 }}", "{{ 1 and 0 or 'x' }} {{ none or [] }} {{ [] and 1 }}", "{{ 'a' if x }}|{{ 'a' if x else 'b' if y else 'c' }}", "{{ 1 if 1 if 0 else 1 else 3 }}",
    # undefined
    "{{ x }}|{{ x is defined }}|{{ messages is defined }}|{{ range is defined }}|{{ namespace is defined }}|{{ strftime_now is defined }}|{{ raise_exception is defined }}|{{ dict is defined }}|{{ loop is defined }}", "{{ x.y }}", "{{ x['y'] }}", "{{ x + 1 }}", "{{ x ~ 'a' }}", "{{ x() }}", "{{ x == y }} {{ x != 1 }} {{ x in [1] }} {{ 1 in x }}", "{% for a in x %}1{% else %}none{% endfor %}", "{{ x|length }} {{ x|list }} {{ x|join }} {{ x|upper }} {{ x|trim }} {{ x|first is defined }} {{ x|string }}", "{{ x|int }}", "{{ x|tojson }}", "{{ x|default('d') }} {{ ''|default('d') }} {{ ''|default('d', true) }} {{ none|d('d') }} {{ none|d('d', boolean=true) }}", "{{ none.x is defined }} {{ none.x }}", "{{ none.x.y }}", "{{ [1][5] is defined }} {{ [1][-1] }} {{ 'abc'[-2] }} {{ 'abc'[7] }} {{ [1]['a'] }}", "{{ x[1:] }}", "{{ x is none }} {{ x is string }} {{ x is iterable }} {{ x is mapping }} {{ x is sequence }} {{ x is number }} {{ x is callable }}", "{{ 1.5.x }}", "{{ {}['a'] }}|{{ {}.a }}|", "{{ {}.a.b is defined }}", "{{ messages[0].nothing.more }}", "{% if messages[0].nothing %}a{% else %}b{% endif %}", "{{ -x }}", "{{ x < 1 }}", "{{ (x|default({})).y is defined }}",
    # attributes and items
    "{{ {'items': 1}.items is callable }} {{ {'items': 1}['items'] }} {{ {'a': 1}['keys'] is callable }} {{ {'get': 3}.get('get') }}", "{{ {1: 'a', 1.0: 'b', true: 'c'} }}", "{{ {'a': 1}.get('b') }} {{ {'a': 1}.get('b', 2) }} {{ {'a': 1}.get('a', 2) }}", "{{ [3, 1].sort() }}", "{{ [1].append(2) }}", "{{ {'a': 1}.pop('a') }}", "{{ {'a': 1}.update({'b': 2}) }}", "{{ ''.__class__ }}|{{ ''.__class__ is defined }}", "{{ [1, 2, 1].count(1) }} {{ [1, 2].index(2) }} {{ (1, 2).index(2) }}", "{{ [1].index(2) }}", "{{ (5).real }} {{ true.real }} {{ 1.5.real }}", "{{ range(5)[1] }} {{ range(5)[1:3] }} {{ range(9)[::-2] | list }}", "{{ {'a': [1, {'b': 2}]}.a[1].b }} {{ [[1, 2]].0.1 }}", "{{ {[1]: 2} }}", "{{ {(1, 2): 3}[1, 2] }}",
    # slices
    "{{ 'abcdef'[1:4] }} {{ 'abcdef'[::-1] }} {{ 'abcdef'[-3:] }} {{ 'abcdef'[:-2] }} {{ 'abcdef'[::2] }} {{ 'abcdef'[4:1:-1] }} {{ 'abcdef'[10:] }}|{{ 'abcdef'[:100] }} {{ 'abcdef'[-100:2] }}", "{{ [1, 2, 3][1:] }} {{ (1, 2, 3)[:1] }} {{ [1, 2, 3][::-1] }}", "{{ 'abc'[::0] }}", "{% set t = 'abc' %}{{ t['a':] }}", "{% set t = none %}{{ t[1:] }}", "{% set t = {} %}{{ t[1:] }}", "{{ '\U0001f600e\u0301'[0] }} {{ '\U0001f600e\u0301'[1:2] }}",
    # statements
    "{% for a, b in [(1, 2), [3, 4]] %}{{ a }}{{ b }};{% endfor %}", "{% for a, b in [(1, 2, 3)] %}{% endfor %}", "{% for (a, b), c in [((1, 2), 3)] %}{{ a }}{{ b }}{{ c }}{% endfor %}", "{% for k in {'a': 1, 'b': 2} %}{{ k }}{% endfor %}{% for c in 'h\u00e9' %}[{{ c }}]{% endfor %}", "{% for x in 5 %}{% endfor %}", "{% for x in none %}{% endfor %}", "{% for x in [1, 2, 3] if x != 2 %}{{ loop.index }}/{{ loop.length }}{{ x }}{{ loop.last }} {% endfor %}", "{% for x in [] %}a{% else %}b{% endfor %}", "{% for x in [1, 2, 3, 4] %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 4 %}{% break %}{% endif %}{{ x }}{% endfor %}", "{% for x in [1, 2] %}{% set y = x %}{% endfor %}{{ y is defined }}", "{% set y = 0 %}{% for x in [1, 2] %}{{ y }}{% set y = x %}{{ y }}{% endfor %}{{ y }}", "{% if true %}{% set y = 3 %}{% endif %}{{ y }}", "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set a = 1, 2 %}{{ a }}", "{% set a %}x{{ 1 }}{% endset %}{{ a }}{{ a is string }}", "{% set a | upper | trim %} x{{ 1 }} {% endset %}[{{ a }}]", "{% set ns = namespace({'a': 1}, b=2) %}{% set ns.c = 3 %}{{ ns.a }}{{ ns.b }}{{ ns.c }}{{ ns.d is defined }}{{ ns['a'] }}", "{% set d = {} %}{% set d.x = 1 %}", "{% set ns = namespace() %}{% set ns.a, x = 1, 2 %}{{ ns.a }}{{ x }}", "{% set ns = namespace(_a=1) %}", "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}", "{% filter upper %}a{{ 'b' }}{% endfilter %}", "{% for x in [1, [2, [3]]] recursive %}{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}@{{ loop.depth }}{% endif %}{% endfor %}", "{% for x in [1, 2] %}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.depth }}{{ loop.cycle('a', 'b') }} {% endfor %}", "{% set ns = namespace(f=false) %}{% for x in [1, 2, 3] if not ns.f %}{{ x }}{% if x == 2 %}{% set ns.f = true %}{% endif %}{% endfor %}", "{% print 1, 'a' %}", "{% block x %}in{% endblock %}", "{% generation %}g{% set q = 1 %}{% endgeneration %}{{ q is defined }}", "{% autoescape false %}<{% endautoescape %}", "{% include 'x' %}", "{% if false %}{% include 'x' %}{% endif %}ok", "{% do x %}", "{% for x in [1] %}{{ loop }}{% endfor %}", "{% for x in [1,2,2] %}{{ loop.changed(x) }} {% endfor %}", "{% if 1 %}a{% elif x.y.z %}b{% else %}c{% endif %}",
    # macros
    "{% macro m(a, b=2, c=a) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1) }} {{ m(1, 3) }} {{ m(b=5, a=4) }} {{ m() }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(q=1) }}", "{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, x=3) }}", "{% macro m(n) %}{{ n }}{% if n > 0 %}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(4) }}", "{% macro m() %}[{{ caller('x', y=2) }}]{% endmacro %}{% call(a, y=1) m() %}{{ a }}{{ y }}{% endcall %}", "{% macro m() %}a{% endmacro %}{% call m() %}b{% endcall %}", "{% macro m() %}{{ x }}{% endmacro %}{% set x = 1 %}{{ m() }}", "{% set x = 1 %}{% macro m() %}{% set x = 2 %}{{ x }}{% endmacro %}{{ m() }}{{ x }}", "{% for x in [1] %}{% macro m() %}{{ x }}{% endmacro %}{{ m() }}{% endfor %}{{ m is defined }}", "{% macro m(a) %}{{ a is defined }}{% endmacro %}{{ m() }} {{ m.name }} {{ m.arguments }} {{ m }}", "{% macro m(a, b) %}{{ a }}-{{ b }}{% endmacro %}{{ m(*[1, 2]) }} {{ m(**{'a': 3, 'b': 4}) }} {{ m(1, *[2]) }}", "{% macro m(x) %}{{ loop is defined }}{% endmacro %}{% for i in [1] %}{{ m(i) }}{% endfor %}", "{{ m() }}{% macro m() %}{% endmacro %}",
    # filters
    "{{ ' a b ' | trim }}|{{ 'xxaxx' | trim('x') }}|{{ 5 | trim }}|{{ none | trim }}", "{{ 'hello wOrld-foo (bar' | title }} {{ \"it's\" | title }} {{ \"it's\".title() }} {{ 'hELLO' | capitalize }}", "{{ '\u00df' | upper }} {{ '\u01c6' | capitalize }} {{ '\u039f\u03a3 \u03a3' | lower }} {{ '\u0130' | lower | length }}", "{{ [3, 1, 2] | sort }} {{ ['b', 'A', 'c'] | sort }} {{ ['b', 'A'] | sort(case_sensitive=true) }} {{ [1, 3] | sort(reverse=true) }}", "{{ [{'a': 2}, {'a': 1}] | sort(attribute='a') }} {{ [{'a': 1, 'b': 2}, {'a': 1, 'b': 1}] | sort(attribute='a,b') }}", "{{ [1, 'a'] | sort }}", "{{ {'b': 1, 'A': 2} | dictsort }} {{ {'b': 1, 'A': 2} | dictsort(true) }} {{ {'b': 1, 'A': 2} | dictsort(by='value', reverse=true) }}", "{{ [1, 2.5] | sum }} {{ [{'a': 1}] | sum(attribute='a') }} {{ [] | sum(start=5) }} {{ [[1], [2]] | sum(start=[]) }}", "{{ ['a'] | sum }}", "{{ 'a\nb\n\nc' | indent }}|{{ 'a\nb' | indent(2, true) }}|{{ 'a\n\nb' | indent(width='>>', blank=true) }}|{{ 'a\n' | indent }}|", "{{ '%s is %d and %.2f %5s|%-5s| %05d %x %r %%' | format('a', 3, 2.345, 'b', 'c', 42, 255, 'q') }}", "{{ '%(a)s %(b)03d' | format(a='x', b=7) }}", "{{ '%s %s' % ('a', 1) }} {{ '%s' % 'a' }} {{ '%d' % 3.7 }}", "{{ '%s %s' | format('a') }}", "{{ '%d' | format('a') }}", "{{ '{} {1}'.format(1, 2) }}", "{{ '{} {} {a} {b[0]} {c.x}'.format(1, 'z', a=2, b=[3], c={'x': 4}) }}", "{{ '{:>5}|{:<5}|{:^5}|{:05d}|{:,}|{:.2f}|{:x}|{:+d}|{:%}|{:e}|{!r:>6}'.format('a', 'b', 'c', 42, 1234567, 3.14159, 255, 5, 0.25, 12345.678, 'q') }}", "{{ '{:>6}|{:c}|{:d}'.format(true, 65, false) }} {{ '%c%c' % ('a', 66) }}", "{{ '{:+}'.format('a') }}", "{{ '{:,}'.format('a') }}", "{{ '{:>3}'.format(x) }}", "{{ '%c' % 'ab' }}", "{{ range(4).count(1) }} {{ range(4).index(2) }} {{ {range(2): 1}[range(0, 2)] }}", "{{ '{{}} {0}{0}'.format('a') }} {{ '{:{}}|'.format('a', 5) }}", "{{ '{:g} {:g} {:.3g} {:10.3f}|{:*^9}'.format(1.0, 1e10, 1234.5, 2.5, 'mid') }}", "{{ 3.7 | int }} {{ '42.9' | int }} {{ 'x' | int }} {{ 'x' | int(7) }} {{ '0x1A' | int(base=16) }} {{ ' 12 ' | int }} {{ none | int }} {{ true | int }} {{ '1_0' | int }}", "{{ '3.5' | float }} {{ 'x' | float }} {{ 2 | float }} {{ 'inf' | float }} {{ none | float(1.5) }}", "{{ 2.5 | round }} {{ 3.5 | round }} {{ 2.567 | round(2) }} {{ 2.1 | round(method='ceil') }} {{ 2.9 | round(0, 'floor') }} {{ 42 | round }} {{ 1234 | round(-2) }}", "{{ -3 | abs }} {{ (-3) | abs }} {{ -2.5 | abs }}", "{{ [1, 2, 3] | first }} {{ [1, 2, 3] | last }} {{ 'abc' | first }} {{ 'abc' | last }} {{ [] | first }}|", "{{ [1, 2] | join }} {{ [1, 2] | join('-') }} {{ [{'a': 1}, {'a': 2}] | join(', ', attribute='a') }} {{ [none, x, true] | join('|') }}", "{{ 'abc' | reverse }} {{ [1, 2] | reverse | list }} {{ [1, 2] | reverse is iterable }}", "{{ [1, 2, 2, 'a', 'A'] | unique | list }} {{ ['a', 'A'] | unique(true) | list }}", "{{ [1, 2, 3] | min }} {{ ['b', 'A'] | max }} {{ [] | max is defined }} {{ [{'a': 2}, {'a': 1}] | min(attribute='a') }}", "{{ [1, 2, 3, 4, 5] | batch(2) | list }} {{ [1, 2, 3] | batch(2, 0) | list }} {{ [1, 2, 3, 4, 5] | slice(2) | list }} {{ [1, 2, 3] | slice(2, 'x') | list }}", "{{ [{'a': 1, 'b': 'x'}, {'a': 2, 'b': 'x'}, {'a': 3, 'b': 'Y'}] | groupby('b') }}{% for g in [{'a': 1}, {'a': 2}] | groupby('a') %}{{ g.grouper }}{{ g.list }}{% endfor %}", "{{ ['a', 'b'] | map('upper') | list }} {{ [{'a': 1}, {}] | map(attribute='a', default=9) | list }} {{ [[1, 2], [3]] | map('length') | list }} {{ [{'a': {'b': 1}}] | map(attribute='a.b') | list }} {{ [[5]] | map(attribute=0) | list }}", "{{ [1, 2, 3] | select('odd') | list }} {{ [0, 1] | select | list }} {{ [1, 2] | reject('equalto', 1) | list }} {{ [1, 5] | select('>', 3) | list }}", "{{ [{'a': 1}, {'a': 0}, {}] | selectattr('a') | list }} {{ [{'a': 1}, {}] | selectattr('a', 'defined') | list }} {{ [{'a': 1}, {'a': 2}] | rejectattr('a', 'eq', 1) | list }} {{ [{'a': 'x'}] | selectattr('a', 'in', ['x']) | list | length }}", "{% set g = [1, 2] | select('odd') %}{{ g | list }}{{ g | list }}", "{{ [1] | select | length }}", "{% if [] | select %}yes{% endif %}", "{{ 'abc' | length }} {{ {'a': 1} | count }} {{ range(4) | length }}", "{{ 5 | length }}", "{{ none | length }}", "{{ 'abc' | list }} {{ {'a': 1} | list }} {{ (1, 2) | list }}", "{{ {'a': 1} | items | list }} {{ x | items | list }}", "{{ [1] | items | list }}", "{{ 'aaa' | replace('a', 'b') }} {{ 'aaa' | replace('a', 'b', 2) }} {{ 'ab' | replace('', '-') }} {{ 5 | replace('5', 6) }}", "{{ '<a href=\"x\">&\\'</a>' | e }} {{ '<' | safe | e }} {{ '<' | e | e }} {{ '<' | forceescape }} {{ ('<' | safe) + '>' }} {{ '<' | safe is escaped }} {{ '<' is escaped }}", "{{ 'foo bar baz qux' | truncate(9) }} {{ 'foo bar baz' | truncate(5, true) }} {{ 'foo bar baz qux' | truncate(11, false, '...', 0) }}", "{{ 'a b  c_d' | wordcount }}", "{{ 'ab' | center(7) }}|{{ 'abc' | center(6) }}|", "{{ 1000 | filesizeformat }} {{ 1 | filesizeformat }} {{ 1234567 | filesizeformat(true) }} {{ 0 | filesizeformat }}", "{{ 'a b/c?\u00e9' | urlencode }} {{ {'a b': 1} | urlencode }}", "{{ {'a': 1, 'b': none, 'c': '<'} | xmlattr }}", "{{ {'a': 1} | attr('keys') is callable }} {{ {'a': 1} | attr('a') is defined }}", "{{ 1 | string }} {{ 1.0 | string }} {{ [1] | string }} {{ none | string }}", "{{ 'x' | nothing }}", "{{ 'abc' | length | string | length }}", "{{ -1 | string }} {{ 'a' ~ 1 | string }} {{ 'a' + 'b' | upper }}",
    # tojson
    "{{ {'a': [1, 2.0, true, none, 'x\u00e9<>&\\'\"\\\\\n']} | tojson }}", "{{ {'a': [1, {}], 'b': []} | tojson(indent=2) }}", "{{ [1, {'a': 2}] | tojson(indent=0) }} {{ [1] | tojson(indent='\t') }}", "{{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }} {{ 'e\u0301\U0001f600\\x7f' | tojson(ensure_ascii=true) }} {{ '\\x7f\\x01' | tojson }}", "{{ [1, {'a': 2}] | tojson(separators=(',', ':')) }} {{ {1: 2, none: 3, true: 4, 1.5: 5} | tojson }}", "{{ (1, 2) | tojson }} {{ 1e400 | tojson }} {{ 1e22 | tojson }}", "{{ range(2) | tojson }}", "{{ {'a': 1}.items() | tojson }}", "{{ [1] | tojson | safe }} {{ '<' | tojson }}", "{{ namespace(a=1) | tojson }}",
    # tests
    "{{ 3 is odd }} {{ 4 is even }} {{ 9 is divisibleby 3 }} {{ 9 is divisibleby(2) }} {{ 1 is integer }} {{ true is integer }} {{ 1.0 is float }} {{ true is number }} {{ true is boolean }}", "{{ 'a' is string }} {{ 'a' is sequence }} {{ {} is sequence }} {{ {} is mapping }} {{ [] is iterable }} {{ 1 is iterable }} {{ range(2) is sequence }} {{ {}.items() is sequence }} {{ {}.items() is iterable }}", "{{ none is none }} {{ 1 is true }} {{ true is true }} {{ false is false }} {{ 'a' is lower }} {{ 'A1' is upper }} {{ '1' is upper }}", "{{ 1 is sameas 1 }} {{ none is sameas none }} {{ [] is sameas [] }} {{ true is sameas true }} {{ 1 is eq 1 }} {{ 1 is in [1] }} {{ 2 is not in [1] }} {{ 1 is lt 2 }} {{ 1 is ne 1 }}", "{{ 'upper' is filter }} {{ 'nope' is filter }} {{ 'odd' is test }}", "{{ 1 is nothing }}", "{{ 1 is not none and 2 is defined }} {{ not 1 is none }}", "{{ 'x' is string and 'y' or 'z' }}",
    # methods of texts
    "{{ 'a,b,,c'.split(',') }} {{ ' a  b '.split() }} {{ 'a b c'.split(' ', 1) }} {{ 'a b c'.split(maxsplit=1) }} {{ 'a b c'.rsplit(' ', 1) }} {{ ' a b c '.rsplit(none, 1) }} {{ ' a b c '.split(none, 1) }} {{ ' a '.split(none, 0) }} {{ ''.split(',') }} {{ ''.split() }}", "{{ 'a'.split('') }}", "{{ '  a '.strip() }}|{{ ' a '.lstrip() }}|{{ ' a '.rstrip() }}|{{ 'xyaxy'.strip('xy') }}|{{ 'aXb'.swapcase() }}", "{{ 'abc'.startswith('a') }} {{ 'abc'.startswith(('x', 'a')) }} {{ 'abc'.endswith('bc') }} {{ 'abc'.startswith('b', 1) }} {{ ''.startswith('') }}", "{{ 'abc'.startswith(['a']) }}", "{{ 'abcabc'.find('c') }} {{ 'abcabc'.rfind('c') }} {{ 'abc'.find('x') }} {{ 'abcabc'.index('b', 2) }} {{ 'aaa'.count('a') }} {{ 'aaa'.count('aa') }} {{ 'ab'.count('') }}", "{{ 'abc'.index('x') }}", "{{ 'a-b-c'.partition('-') }} {{ 'a-b-c'.rpartition('-') }} {{ 'abc'.partition('-') }}", "{{ 'a\nb\r\nc\n'.splitlines() }} {{ 'a\nb'.splitlines(true) }}", "{{ ','.join(['a', 'b']) }} {{ '-'.join('abc') }}", "{{ ','.join([1]) }}", "{{ 'ab'.ljust(4, '.') }}{{ 'ab'.rjust(4) }}{{ 'ab'.center(5, '*') }}{{ '-5'.zfill(4) }}", "{{ 'abc'.removeprefix('a') }} {{ 'abc'.removesuffix('bc') }} {{ 'a\tb'.expandtabs(4) }}", "{{ 'abc'.isalpha() }} {{ '12'.isdigit() }} {{ 'a1'.isalnum() }} {{ ' '.isspace() }} {{ 'ab'.islower() }} {{ 'AB'.isupper() }} {{ 'Ab Cd'.istitle() }} {{ 'a'.isidentifier() }} {{ '\u00b2'.isdigit() }} {{ '\u00bd'.isnumeric() }} {{ ''.isalpha() }} {{ 'a'.isascii() }}", "{{ 'a-b'.replace('-', '+') }} {{ 'aaa'.replace('a', 'b', 1) }} {{ 'x'.upper().lower() }} {{ 'hello world'.capitalize() }} {{ 'Stra\u00dfe'.casefold() }}", "{{ 'a'.replace(1, 2) }}", "{{ 'a'.nothing() }}", "{{ 'a'.upper is callable }}", "{{ '{a}'.format_map({'a': 1}) }}",
    # functions
    "{{ dict(a=1, b=2) }} {{ dict({'a': 1}, b=2) }} {{ dict([('x', 1)]) }}", "{{ range(3) | list }} {{ range(1, 4) | list }} {{ range(5, 0, -2) | list }} {{ range(0) | list }}", "{{ range(1, 2, 0) }}", "{{ range('a') }}", "{{ range(200000) }}", "{{ raise_exception('no') }}", "{{ strftime_now('%Y-%m-%d %H|%d %b %Y|%B %A %j') }}", "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}", "{% set j = joiner('|') %}{{ j() }}a{{ j() }}b{{ j() }}", "{{ nothing() }}", "{{ messages[0]() }}",
    # what is no template
    "{{ 1 + }}", "{% if x %}", "{{ x", "{% endif %}", "{% for x %}{% endfor %}", "{{ 'a }}", "{{ (1 }}", "{{ 1) }}", "{# x", "{% raw %}x", "{{ a b }}", "{% set 1 = 2 %}", "{% set true = 2 %}", "{{ }}", "{% macro m(a=1, b) %}{% endmacro %}", "{{ x.1a }}", "{{ f(a=1, 2) }}", "{{ x is }}", "{{ x | }}", "{% elif %}", "{% unknown %}", "{{ 1 ! 2 }}", "{{ {'a' 1} }}", "{{ [1 2] }}",
]


def main():
    ROOT.mkdir(exist_ok=True)
    for name, template in TEMPLATES.items():
        (ROOT / name).mkdir(exist_ok=True)
        (ROOT / name / "chat_template.jinja").write_text(template)
        cases = []
        for messages, options in CASES:
            found = render(template, messages, **{**options, "arguments": {"bos_token": "<s>", "eos_token": "</s>", **options.get("arguments", {})}})
            cases.append({"messages": messages, **options, **found})
        (ROOT / name / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": {"content": "</s>"}}) + "\n")
        (ROOT / name / "expected.json").write_text(json.dumps(cases, indent=1) + "\n")
        print(name, sum("text" in case for case in cases), "of", len(cases))
    cases = [{"template": text, **render(text, [user("x")])} for text in TEXTS]
    (ROOT / "expressions.json").write_text(json.dumps(cases, indent=1) + "\n")
    print("expressions", sum("text" in case for case in cases), "of", len(cases))


if __name__ == "__main__":
    main()
