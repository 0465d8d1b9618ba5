"""Parts of chat templates, in the ways in which families of models write them, and what transformers makes of each.

Writes Fixtures/chat/parts.json. A part is rendered for each conversation that suits it. Needs the versions in
requirements.txt.
"""

import json

from make_template_fixtures import EMPTY, ROOT, WEATHER, assistant, call, render, system, user

SEARCH = {
    "type": "function",
    "function": {
        "name": "search_all",
        "description": "Finds things.\nIn many places.",
        "parameters": {
            "type": "object",
            "$defs": {"place": {"type": "object", "properties": {"lat": {"type": "number", "minimum": -90.0}}}},
            "properties": {
                "query": {"type": "string", "description": "what to find", "minLength": 1},
                "limit": {"type": "integer", "default": 10, "maximum": 100},
                "near": {"$ref": "#/$defs/place"},
                "kinds": {"type": "array", "items": {"type": "string", "enum": ["a", "b\u00e9"]}, "description": "kinds"},
                "either": {"oneOf": [{"type": "string"}, {"type": "number", "default": 1.5}, {"type": "null"}]},
                "any": {"anyOf": [{"type": "boolean"}, {"type": "array", "items": {"type": "integer"}}]},
                "nested": {"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {"type": "boolean", "default": False}}}}, "required": ["a"]},
                "nullable": {"type": "string", "nullable": True, "default": "x\"y"},
            },
            "required": ["query", "near"],
            "additionalProperties": False,
        },
        "return": {"type": "object", "properties": {"hits": {"type": "array", "items": {"type": "object"}}}},
    },
    "strict": True,
}
TALK = [system("Be brief.\n"), user("Hi  there"), assistant("Hello!", reasoning_content="\nGreet back.\n"), user("<b>bold</b> & 'more'")]
CALLS = [
    user("find"),
    assistant("", reasoning_content="use tools", tool_calls=[call("search_all", {"query": "caf\u00e9 \U0001f600", "limit": 3, "near": {"lat": -1.0}, "kinds": []}), call("nothing", {})]),
    {"role": "tool", "tool_call_id": "call00001", "name": "search_all", "content": "{\"hits\": [1, 2.50, null]}"},
    {"role": "tool", "tool_call_id": "call00002", "name": "nothing", "content": [{"type": "text", "text": "none"}, {"type": "text", "text": " at all"}]},
    assistant("<think>\nread\n</think>\nFound 2."),
    user("thanks"),
]
LISTS = [system([{"type": "text", "text": "S1"}, {"type": "text", "text": "S2"}]), user([{"type": "image"}, {"type": "text", "text": " a "}, {"type": "audio", "audio": "x"}, "plain"]), assistant(None, tool_calls=[call("nothing", "{}")])]
DOCUMENTS = [{"title": "T\u00f6", "text": "one\ntwo", "id": 7}, {"title": "B", "text": "", "meta": {"k": [1, None, True]}}]

PARTS = {
    # Qwen 3: one answer or several calls, a marker that each message may have.
    "last question": """{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) -%}
{%- for message in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}
{%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<r>') and message.content.endswith('</r>')) %}{%- set ns.multi_step_tool = false %}{%- set ns.last_query_index = index %}{%- endif %}
{%- endfor %}{{ ns.last_query_index }} {{ ns.multi_step_tool }}
{%- for m in messages[ns.last_query_index:] %}[{{ loop.revindex0 }}:{{ m['role'] }}]{%- endfor %}""",
    "calls after text": """{%- for message in messages -%}
{%- if message.role == 'assistant' -%}{%- if message.tool_calls -%}{%- for tool_call in message.tool_calls -%}
{%- if (loop.first and message.content) or (not loop.first) %}{{- '\\n' }}{%- endif %}{%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
{{- '<tool_call>\\n{"name": "' }}{{- tool_call.name }}{{- '", "arguments": ' }}{%- if tool_call.arguments is string %}{{- tool_call.arguments }}{%- else %}{{- tool_call.arguments | tojson }}{%- endif %}{{- '}\\n</tool_call>' }}
{%- endfor -%}{%- endif -%}{%- endif -%}{%- endfor -%}""",
    "thought split": """{% for m in messages %}{% set content = m.content if m.content is string else '' %}{% set reasoning_content = '' %}
{%- if m.reasoning_content is defined and m.reasoning_content is not none %}{% set reasoning_content = m.reasoning_content %}{% elif '</think>' in content %}{% set reasoning_content = (content.split('</think>')|first).rstrip('\\n').split('<think>')|last %}{% set content = (content.split('</think>')|last).lstrip('\\n') %}{% endif %}
{{ loop.index }}|{{ reasoning_content.strip('\\n') }}|{{ content }}
{% endfor %}""",
    "thinking switch": """{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' }}{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- elif enable_thinking is defined %}{{ '<think>' ~ enable_thinking ~ budget|default(0) }}{%- endif %}{%- endif %}""",
    # gpt-oss: TypeScript from schemas.
    "schema to types": """{%- macro render_type(spec, required_params, is_nullable=false) -%}
    {%- if spec.type == "array" -%}{%- if spec['items'] -%}{%- if spec['items']['type'] == "string" -%}{{- "string[]" }}{%- elif spec['items']['type'] == "object" -%}{{- "object[]" }}{%- else -%}{%- set inner = render_type(spec['items'], required_params) -%}{%- if inner == "object | object" or inner|length > 50 -%}{{- "any[]" }}{%- else -%}{{- inner + "[]" }}{%- endif -%}{%- endif -%}{%- if spec.nullable -%}{{- " | null" }}{%- endif -%}{%- else -%}any[]{%- endif -%}
    {%- elif spec.type is defined and spec.type is iterable and spec.type is not string and spec.type is not mapping and spec.type[0] is defined -%}{%- if spec.type | length > 1 -%}{{- spec.type | join(" | ") }}{%- else -%}{{- spec.type[0] }}{%- endif -%}
    {%- elif spec.oneOf -%}{%- set has_object_variants = false -%}{%- for variant in spec.oneOf -%}{%- if variant.type == "object" -%}{%- set has_object_variants = true -%}{%- endif -%}{%- endfor -%}{%- if has_object_variants and spec.oneOf|length > 1 -%}any{%- else -%}{%- for variant in spec.oneOf -%}{{- render_type(variant, required_params) -}}{%- if variant.description %}{{- "// " + variant.description }}{%- endif -%}{%- if variant.default is defined %}{{ "// default: " + variant.default|tojson }}{%- endif -%}{%- if not loop.last %}{{- " | " }}{% endif -%}{%- endfor -%}{%- endif -%}
    {%- elif spec.type == "string" -%}{%- if spec.enum -%}{{- '"' + spec.enum|join('" | "') + '"' -}}{%- else -%}{{- "string" }}{%- if spec.nullable %}{{- " | null" }}{%- endif -%}{%- endif -%}
    {%- elif spec.type in ["number", "integer"] -%}{{- "number" }}{%- elif spec.type == "boolean" -%}{{- "boolean" }}
    {%- elif spec.type == "object" -%}{%- if spec.properties -%}{{- "{\\n" }}{%- for prop_name, prop_spec in spec.properties.items() -%}{{- prop_name -}}{%- if prop_name not in (spec.required or []) -%}{{- "?" }}{%- endif -%}{{- ": " }}{{ render_type(prop_spec, spec.required or []) }}{%- if not loop.last -%}{{-", " }}{%- endif -%}{%- endfor -%}{{- "}" }}{%- else -%}{{- "object" }}{%- endif -%}
    {%- else -%}{{- "any" }}{%- endif -%}
{%- endmacro -%}
{% for tool in tools or [] %}{{ tool.function.name }} = {{ render_type(tool.function.parameters, []) }}
{% for line in tool.function.description.split('\\n') %}// {{ line }}
{% endfor %}{% endfor %}""",
    "defaults in comments": """{%- for tool in tools or [] %}{%- for n, p in tool.function.parameters.properties.items() %}{%- if p.default is defined %}{{- n }}: {% if p.type == "string" -%}{{ p.default|tojson }}{%- elif p.enum %}{{ '"' + p.default + '"' }}{% else %}{{ p.default }}{% endif %}{{- "\\n" }}{%- endif -%}{%- endfor -%}{%- endfor -%}""",
    "builtin tools": """{%- macro builtin(browser=false, python=false) %}{%- if browser %}{{- "## browser\\n" }}{%- endif -%}{%- if python %}{{- "## python\\n" }}{%- endif -%}{%- endmacro -%}
{%- set has_builtin = builtin_tools is defined and builtin_tools -%}{%- if has_builtin %}{{ builtin("browser" in builtin_tools, python="python" in builtin_tools) }}{%- endif %}{{ has_builtin }} {{ model_identity | default("You are a model.") }} {{ strftime_now("%Y-%m-%d %A %B %j") }}""",
    # Gemma 3 and 4: roles by turns, dictionaries in order, values formatted by kind.
    "turn parity": """{%- if messages[0]['role'] == 'system' -%}{%- if messages[0]['content'] is string -%}{%- set first_user_prefix = messages[0]['content'] + '\\n\\n' -%}{%- else -%}{%- set first_user_prefix = messages[0]['content'][0]['text'] + '\\n\\n' -%}{%- endif -%}{%- set loop_messages = messages[1:] -%}{%- else -%}{%- set first_user_prefix = "" -%}{%- set loop_messages = messages -%}{%- endif -%}
{%- for message in loop_messages -%}{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}{{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}{%- endif -%}{{ (first_user_prefix if loop.first else "") ~ message['role'] ~ loop.index0 }}{%- endfor -%}""",
    "sorted schema": """{%- macro format_parameters(properties, required) -%}{%- set standard_keys = ['description', 'type', 'properties', 'required', 'nullable'] -%}{%- set ns = namespace(found_first=false) -%}
{%- for key, value in properties | dictsort -%}{%- if key not in standard_keys -%}{%- if ns.found_first %},{% endif -%}{%- set ns.found_first = true -%}{{- key }}:{description:<|"|>{{ value['description'] }}<|"|>
{%- if value['type'] | upper == 'STRING' -%}{%- if value['enum'] -%},enum:{{ format_argument(value['enum']) }}{%- endif -%}{%- elif value['type'] | upper == 'OBJECT' -%},properties:{{ '{' }}{%- if value['properties'] is defined and value['properties'] is mapping -%}{{- format_parameters(value['properties'], value['required'] | default([])) -}}{%- elif value is mapping -%}{{- format_parameters(value, value['required'] | default([])) -}}{%- endif -%}{{ '}' }}{%- if value['required'] -%},required:[{%- for item in value['required'] | default([]) -%}<|"|>{{- item -}}<|"|>{%- if not loop.last %},{% endif -%}{%- endfor -%}]{%- endif -%}
{%- elif value['type'] | upper == 'ARRAY' -%}{%- if value['items'] is mapping and value['items'] -%},items:{{ '{' }}{%- set ns = namespace(found_first=false) -%}{%- for item_key, item_value in value['items'] | dictsort -%}{%- if item_value is not none -%}{%- if ns.found_first %},{% endif -%}{%- set ns.found_first = true -%}{%- if item_key == 'type' -%}{%- if item_value is string -%}type:{{ format_argument(item_value | upper) }}{%- else -%}type:{{ format_argument(item_value | map('upper') | list) }}{%- endif -%}{%- else -%}{{ item_key }}:{{ format_argument(item_value) }}{%- endif -%}{%- endif -%}{%- endfor -%}{{ '}' }}{%- endif -%}{%- endif -%}{%- if value['nullable'] %},nullable:true{%- endif -%},type:<|"|>{{ value['type'] | upper }}<|"|>}{%- endif -%}{%- endfor -%}{%- endmacro -%}
{%- macro format_argument(argument, escape_keys=True) -%}{%- if argument is string -%}{{- '<|"|>' + argument + '<|"|>' -}}{%- elif argument is boolean -%}{{- 'true' if argument else 'false' -}}{%- elif argument is mapping -%}{{- '{' -}}{%- for key, value in argument | dictsort -%}{{ key }}:{{ format_argument(value, escape_keys) }}{%- if not loop.last %},{% endif -%}{%- endfor -%}{{- '}' -}}{%- elif argument is sequence -%}{{- '[' -}}{%- for item in argument -%}{{- format_argument(item) -}}{%- if not loop.last %},{% endif -%}{%- endfor -%}{{- ']' -}}{%- else -%}{{- argument -}}{%- endif -%}{%- endmacro -%}
{% for tool in tools or [] %}{{ format_parameters(tool['function']['parameters']['properties'], tool['function']['parameters']['required']) }};{% endfor %}""",
    "first reply": """{%- set ns = namespace(prev_message_type=None, prev_non_tool=None) -%}{%- for message in messages -%}{%- set prev = ns.prev_message_type -%}{%- set ns.prev_message_type = message['role'] -%}{%- set continue_same = (message['role'] == 'assistant' and ns.prev_non_tool == 'assistant') -%}{%- if message['role'] != 'tool' -%}{%- set ns.prev_non_tool = message['role'] -%}{%- endif -%}{{ prev }}>{{ message['role'] }}{{ '+' if continue_same }} {% endfor -%}""",
    "forward scan": """{%- for message in messages -%}{%- if message.get('tool_calls') -%}{%- set ns2 = namespace(responses=[], stopped=false) -%}{%- for k in range(loop.index0 + 1, messages | length) -%}{%- if ns2.stopped -%}{%- elif messages[k]['role'] != 'tool' -%}{%- set ns2.stopped = true -%}{%- else -%}{%- set ns2.responses = ns2.responses + [messages[k]] -%}{%- endif -%}{%- endfor -%}{{ ns2.responses | map(attribute='name') | join(',') }}:{%- for r in ns2.responses %}{%- if r.content is string %}{{ r.content | length }}{%- elif r.content is sequence and r.content is not string %}{%- set p = namespace(text='') %}{%- for part in r.content %}{%- if part.get('type') == 'text' %}{%- set p.text = p.text + (part.get('text') | default('')) %}{%- endif %}{%- endfor %}{{ p.text }}{%- endif %};{%- endfor %}{%- endif -%}{%- endfor -%}""",
    # GLM 4.5, Kimi K2, MiniMax.
    "trim blocks": """[gMASK]<sop>
  {% for m in messages %}
    {% if m.role == 'user' %}
<|user|>
{{ m.content }}
    {% elif m.role == 'tool' -%}
      {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
    {{- '<|observation|>' }}
    {%- endif %}
{{- '\\n<tool_response>\\n' }}
{{- m.content }}
{{- '\\n</tool_response>' }}
    {%+ else %}
  other
    {% endif +%}
  {% endfor %}
end""",
    "key value arguments": """{% for m in messages %}{% if m.tool_calls %}{% for tc in m.tool_calls %}{%- if tc.function %}{%- set tc = tc.function %}{%- endif %}
{{ '\\n<tool_call>' + tc.name }}
{% set _args = tc.arguments %}
{% if _args is not string %}{% for k, v in _args.items() %}<arg_key>{{ k }}</arg_key>
<arg_value>{{ v | tojson(ensure_ascii=False) if v is not string else v }}</arg_value>
{% endfor %}{% else %}{{ _args }}{% endif %}</tool_call>{% endfor %}{% endif %}{% endfor %}""",
    "content kinds": """{% macro render_content(msg) -%}{%- set c = msg.get('content') -%}{%- if c is string -%}{{ c }}{%- elif c is not none -%}{% for content in c -%}{% if content['type'] == 'image' or 'image' in content or 'image_url' in content -%}<|media_start|>image<|media_end|>{% elif content is string %}[{{ content }}]{% else -%}{{ content['text'] }}{%- endif -%}{%- endfor -%}{%- endif -%}{%- endmacro -%}
{% macro set_roles(message) -%}{%- set role_name =  message.get('name') or  message['role'] -%}{%- if message['role'] == 'user' -%}<|im_user|>{{role_name}}<|im_middle|>{%- elif message['role'] == 'assistant' -%}<|im_assistant|>{{role_name}}<|im_middle|>{%- else -%}<|im_system|>{{role_name}}<|im_middle|>{%- endif -%}{%- endmacro -%}
{%- for message in messages -%}{{set_roles(message)}}{{render_content(message)}}<|im_end|>{%- endfor -%}""",
    "compact json": """{%- if tools -%}<|im_system|>tool_declare<|im_middle|>{{ tools | tojson(separators=(',', ':')) }}<|im_end|>{%- endif -%}{{ (tools or []) | tojson(indent=2) }}""",
    "keys of a schema": """{%- for tool in tools or [] -%}{{ tool.function.parameters.keys() | list }} {{ tool.function.parameters.properties.values() | map(attribute='type') | list }} {{ tool.function | length }} {{ tool.get('strict', 'lax') }} {{ 'strict' in tool }}{%- endfor -%}""",
    "minimax turns": """{%- set system_message = namespace(content='') -%}{%- set conversation = [] -%}{%- if messages and messages[0].role == "system" %}{%- set system_message = messages[0] %}{%- set conversation = messages[1:] %}{%- else %}{%- set system_message = none %}{%- set conversation = messages %}{%- endif -%}
{%- set last = namespace(i=-1) %}{%- for m in conversation %}{%- if m.role == 'user' %}{%- set last.i = loop.index0 %}{%- endif %}{%- endfor %}{{ 'ai=' ~ (system_message.content if system_message else 'You are') }}
{%- for m in conversation %}{%- if m.role == 'assistant' %}{%- if loop.index0 > last.i %}late{%- else %}early{%- endif %}{%- elif m.role == 'tool' %}{%- if loop.first or (conversation[loop.index0 - 1].role != 'tool') %}]~b]tool{%- endif %}{%- if m.content is string %}\\n<response>{{ m.content }}</response>{%- else %}{%- for tr in m.content %}<response>{{ tr.output if tr.output is defined else (tr.text if tr.type == 'text' and tr.text is defined else tr) }}</response>{%- endfor %}{%- endif %}{%- endif %}{%- endfor %}""",
    # Mistral: system prompts with dates, lists of parts, ids that must fit.
    "dated system prompt": """{%- set today = strftime_now("%Y-%m-%d") %}{%- set default_system_message = "You are X.\\nThe current date is " + today + ".\\n\\nAsk (e.g. \\"Where?\\" => \\"What?\\")" %}{{- bos_token }}
{%- if messages[0]["role"] == "system" %}{%- if messages[0]["content"] is string %}{%- set system_message = messages[0]["content"] %}{%- else %}{%- set system_message = messages[0]["content"][0]["text"] %}{%- endif %}{%- set loop_messages = messages[1:] %}{%- else %}{%- set system_message = default_system_message %}{%- set loop_messages = messages %}{%- endif %}{{- "[SYSTEM_PROMPT]" + system_message + "[/SYSTEM_PROMPT]" }}
{%- for message in loop_messages %}{%- if message["role"] == "user" %}{%- if message["content"] is string %}{{- "[INST]" + message["content"] + "[/INST]" }}{%- else %}{{- "[INST]" }}{%- for block in message["content"] %}{%- if block["type"] == "text" %}{{- block["text"] }}{%- elif block["type"] in ["image", "image_url"] %}{{- "[IMG]" }}{%- else %}{{- raise_exception("Only text and image blocks are supported in message content!") }}{%- endif %}{%- endfor %}{{- "[/INST]" }}{%- endif %}{%- endif %}{%- endfor %}""",
    "tekken calls": """{%- for message in messages %}{%- if message.tool_calls is defined and message.tool_calls is not none and message.tool_calls|length > 0 %}{{- message["content"] if message["content"] }}{%- for tool_call in message["tool_calls"] %}{%- set arguments = tool_call.function.arguments %}{%- if arguments is not string %}{%- set arguments = arguments|tojson|safe %}{%- elif arguments == "" %}{%- set arguments = "{}" %}{%- endif %}{{- "[TOOL_CALLS]" + tool_call.function.name + "[CALL_ID]" + tool_call.id + "[ARGS]" + arguments }}{%- endfor %}{%- elif message.role == "tool" %}{%- if message.content is defined and message.content.content is defined %}{%- set content = message.content.content %}{%- else %}{%- set content = message.content %}{%- endif %}{%- if not message.tool_call_id is defined or message.tool_call_id|length != 9 %}{{- raise_exception("Tool call IDs should be alphanumeric strings with length 9!") }}{%- endif %}{{- '[TOOL_RESULTS]{"content": ' + content|string + ', "call_id": "' + message.tool_call_id + '"}[/TOOL_RESULTS]' }}{%- endif %}{%- endfor %}""",
    "roles with rejection": """{%- set user_messages = messages | selectattr("role", "equalto", "user") | list %}{{ user_messages | length }} {{ messages | rejectattr("role", "in", ["user", "tool"]) | map(attribute="role") | list }} {{ messages | selectattr("tool_calls") | list | length }} {{ messages | selectattr("tool_calls", "defined") | map(attribute="tool_calls") | map("length") | sum }} {{ (messages | last).role }} {{ messages | map(attribute="content") | select("string") | map("trim") | map("length") | max }}""",
    # Command R and A.
    "command documents": """{%- if documents -%}{% set ns = namespace(n=0) %}<results>{% for doc in documents %}
Document: {{ loop.index0 }}
{% for key, value in doc | items %}{{ key | title }}: {{ value | tojson if value is not string else value }}
{% endfor %}{% set ns.n = ns.n + doc|length %}{%- endfor %}</results>{{ ns.n }}{%- endif -%}""",
    "command results": """{%- macro document_turn(documents) -%}[{% for doc in documents %}{%- if not loop.first %}, {%- endif %}
    {"tool_call_id": "0", "results": {"{{ loop.index0 }}": {{doc|tojson}}}, "is_error": null}{% endfor %}
]{%- endmacro %}{%- set tool_ids_seen = namespace(value=[]) %}{% for m in messages if m.role == 'tool' %}{% if m.tool_call_id in tool_ids_seen.value %}again{% else %}{%- set tool_ids_seen.value = tool_ids_seen.value + [m.tool_call_id] %}{{ tool_ids_seen.value | length }}:{{ tool_ids_seen.value.index(m.tool_call_id) if tool_ids_seen.value.index is defined else '-' }}{% endif %}{% endfor %}{{ document_turn(documents or []) }}""",
    "python signature": """{%- macro json_to_python_type(param, required) -%}{%- set basic = {"string": "str", "number": "float", "integer": "int", "boolean": "bool"} -%}{%- set ns = namespace(t='') -%}{%- if basic[param.type] is defined -%}{%- set ns.t = basic[param.type] -%}{%- elif param.type == "array" -%}{%- set ns.t = "List[" + json_to_python_type(param["items"], true) + "]" -%}{%- elif param.type == "object" -%}{%- if param.additionalProperties is defined -%}{%- set ns.t = "Dict[str, " + json_to_python_type(param.additionalProperties, true) + ']' -%}{%- else -%}{%- set ns.t = "Dict" -%}{%- endif -%}{%- elif param.type is iterable and param.type is not string -%}{%- set ns.t = "Union[" + (param.type | join(',')) + ']' -%}{%- else -%}{%- set ns.t = "Any" -%}{%- endif -%}{{ ns.t if required else 'Optional[' + ns.t + ']' }}{%- endmacro -%}
{%- for t in tools or [] -%}def {{ t.function.name }}({% for n, f in t.function.parameters.properties.items() %}{{ n }}: {{ json_to_python_type(f, n in (t.function.parameters.required or [])) }}{% if not loop.last %}, {% endif %}{% endfor %}):
    \"\"\"{{ t.function.description | replace('\\n', '\\n    ') }}\"\"\"
{% endfor -%}""",
    # DeepSeek V3.1.
    "flags of a namespace": """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% if not thinking is defined %}{% set thinking = false %}{% endif %}{% set ns = namespace(is_first=false, is_tool=false, system_prompt='', is_first_sp=true, is_last_user=false) %}{%- for message in messages %}{%- if message['role'] == 'system' %}{%- if ns.is_first_sp %}{% set ns.system_prompt = ns.system_prompt + message['content'] %}{% set ns.is_first_sp = false %}{%- else %}{% set ns.system_prompt = ns.system_prompt + '\\n\\n' + message['content'] %}{%- endif %}{%- endif %}{%- endfor %}{{ bos_token }}{{ ns.system_prompt }}{%- for message in messages %}{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{%- set ns.is_first = false -%}{%- set ns.is_last_user = true -%}{{'<｜User｜>' ~ message['content']}}{%- endif %}{%- if message['role'] == 'assistant' and message['tool_calls'] is defined and message['tool_calls'] is not none %}{%- if ns.is_last_user %}{{'<｜Assistant｜></think>'}}{%- endif %}{%- set ns.is_last_user = false -%}{%- for tool in message['tool_calls'] %}{%- if not ns.is_first %}{{ '<｜calls▁begin｜>' ~ tool['function']['name'] ~ '<｜sep｜>' ~ tool['function']['arguments'] ~ '<｜end｜>' }}{%- set ns.is_first = true -%}{%- else %}{{ '<｜call｜>' + tool['function']['name'] + '<｜sep｜>' + tool['function']['arguments']|tojson }}{%- endif %}{%- endfor %}{%- endif %}{%- if message['role'] == 'tool' %}{%- set ns.is_tool = true -%}{{ '<｜out｜>' ~ message['content'] }}{%- endif %}{%- endfor -%}{% if add_generation_prompt and ns.is_last_user and not ns.is_tool %}{{'<｜Assistant｜>'}}{%- if not thinking %}{{'</think>'}}{%- else %}{{'<think>'}}{%- endif %}{% endif %}""",
    # Llama 3.2 and 4.
    "ipython": """{%- set builtin_tools = builtin_tools | default([]) %}{%- if builtin_tools is defined or tools is not none %}{{- "Environment: ipython\\n" }}{%- endif %}{%- if builtin_tools %}{{- "Tools: " + builtin_tools | reject('equalto', 'code_interpreter') | join(", ") + "\\n\\n"}}{%- endif %}{%- for message in messages %}{%- if 'tool_calls' in message %}{%- if not message.tool_calls|length == 1 %}{{- raise_exception("This model only supports single tool-calls at once!") }}{%- endif %}{%- set tool_call = message.tool_calls[0].function %}{{- tool_call.name + "." + (tool_call.arguments | tojson if tool_call.arguments is mapping else tool_call.arguments) }}{%- elif message.role == "tool" or message.role == "ipython" %}{%- if message.content is mapping or message.content is iterable %}{{- message.content | tojson }}{%- else %}{{- message.content }}{%- endif %}{%- endif %}{%- endfor %}""",
    "python call": """{%- for message in messages %}{%- for tool_call in message.tool_calls or [] %}{{- '[' if loop.first }}{{- tool_call.function.name + '(' }}{%- for param in (tool_call.function.arguments if tool_call.function.arguments is mapping else {}) %}{{- param + '="' }}{{- "%s" | format(tool_call.function.arguments[param]) }}{{- '"' }}{% if not loop.last %}, {% endif %}{%- endfor %}{{- ')' ~ (']' if loop.last else ', ') }}{%- endfor %}{%- endfor %}""",
    "date given": """{%- if not date_string is defined %}{%- if strftime_now is defined %}{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}{%- endif %}{{- "Today Date: " + date_string + "\\n" }}{{ strftime_now('%H:%M:%S %y %I%p %w %U %%') }}""",
    # Phi 4, Granite 3, SmolLM 3, OLMo 2, Hermes, Nemotron.
    "one line": """{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'system') %}{{'<|im_start|>system<|im_sep|>' + message['content'] + '<|im_end|>'}}{% elif (message['role'] == 'user') %}{{'<|im_start|>user<|im_sep|>' ~ message['content'] ~ '<|im_end|>'}}{% elif (message['role'] == 'assistant') %}{{'<|im_start|>assistant<|im_sep|>' ~ message['content'] ~ '<|im_end|>'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}""",
    "granite prompt": """{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}{%- set loop_messages = messages[1:] %}{%- else %}{%- set system_message = "Knowledge Cutoff Date: April 2024.\\nToday's Date: " + strftime_now('%B %d, %Y') + ".\\nYou are G." %}{%- if tools and documents %}{%- set system_message = system_message + " Both." %}{%- elif tools %}{%- set system_message = system_message + " Tools." %}{%- elif thinking %}{%- set system_message = system_message + " Thinks." %}{%- endif %}{%- if 'citations' in (controls or {}) and documents %}{%- set system_message = system_message + '\\n\\nCite.' %}{%- endif %}{%- set loop_messages = messages %}{%- endif %}{{- system_message }}
{%- if documents %}{%- for document in documents %}{{- '\\n<|start_of_role|>document {"document_id": "' + (document['doc_id'] | string) + '"}<|end_of_role|>\\n' }}{{- document['text'] }}{%- endfor %}{%- endif %}{%- for message in loop_messages %}{{- '<|start_of_role|>' + message['role'] + '<|end_of_role|>' }}{%- if loop.last and add_generation_prompt %}{{- '<|start_of_role|>assistant' }}{%- if controls %}{{- ' ' + controls | tojson() }}{%- endif %}{{- '<|end_of_role|>' }}{%- endif %}{%- endfor %}""",
    "defaults in a header": """{# ---- defaults ---- #}
{%- if enable_thinking is not defined -%}{%- set enable_thinking = true -%}{%- endif -%}
{# ---- mode ---- #}
{%- if enable_thinking -%}{%- set reasoning_mode = "/think" -%}{%- else -%}{%- set reasoning_mode = "/no_think" -%}{%- endif -%}
{{- "<|im_start|>system\\n" -}}
{%- if messages[0].role == "system" and messages[0].content is string -%}
  {%- set system_message = messages[0].content -%}
  {%- if "/no_think" in system_message -%}{%- set reasoning_mode = "/no_think" -%}{%- elif "/think" in system_message -%}{%- set reasoning_mode = "/think" -%}{%- endif -%}
  {%- set custom_instructions = system_message.replace("/no_think", "").replace("/think", "").rstrip() -%}
{%- endif -%}
{%- if custom_instructions and "/system_override" in custom_instructions -%}{{- custom_instructions.replace("/system_override", "").rstrip() -}}{%- else -%}{{- "## Metadata\\n\\nReasoning Mode: " + reasoning_mode + "\\n" -}}{%- set today = strftime_now("%d %B %Y") -%}{{- today ~ "\\n" -}}{%- if custom_instructions -%}{{- custom_instructions + "\\n\\n" -}}{%- endif -%}{%- endif -%}
{%- if xml_tools or python_tools or tools -%}{%- set ns = namespace(xml_tool_string="<tools>\\n") -%}{%- for tool in (xml_tools or tools)[:5] -%}{%- set ns.xml_tool_string = ns.xml_tool_string ~ (tool | string) ~ "\\n" -%}{%- endfor -%}{{ ns.xml_tool_string + "</tools>" }}{%- endif -%}
{% generation %}{{ 'marked' }}{% endgeneration %}""",
    "end of text": """{%- set has_system = messages|selectattr('role', 'equalto', 'system')|list|length > 0 -%}{%- if not has_system -%}{{- '<|im_start|>system\\nYou are O.' -}}{%- endif -%}{%- for message in messages -%}{%- if message['role'] == 'assistant' -%}{{- '<|assistant|>\\n' -}}{%- if message.get('content', none) is not none -%}{{- message['content'] -}}{%- endif -%}{%- if message.get('function_calls', none) is not none -%}{{- '<fc>' + message['function_calls'] + '</fc>' -}}{% elif message.get('tool_calls', none) is not none %}{{- '<fc>' -}}{%- for tool_call in message['tool_calls'] %}{{- tool_call['function']['name'] + '(' -}}{%- set ns = namespace(first=true) %}{%- for arg_name, arg_value in (tool_call['function']['arguments'] | items if tool_call['function']['arguments'] is mapping else []) %}{%- if not ns.first %}{{- ', ' -}}{%- endif -%}{{ arg_name + '=' + arg_value | tojson -}}{%- set ns.first = false %}{%- endfor -%}{{ ')' }}{%- if not loop.last -%}{{ '\\n' }}{%- endif -%}{%- endfor -%}{{- '</fc>' -}}{%- endif -%}{%- if not loop.last -%}{{- eos_token + '\\n' -}}{%- else -%}{{- eos_token -}}{%- endif -%}{%- endif -%}{%- if loop.last and add_generation_prompt and message['role'] != 'assistant' -%}{{- '<|assistant|>\\n' -}}{%- endif -%}{%- endfor -%}""",
    "hermes tool block": """{%- macro json_to_python_type(json_spec) %}
{%- set basic_type_map = {"string": "str", "number": "float", "integer": "int", "boolean": "bool"} %}
{%- if basic_type_map[json_spec.type] is defined %}
    {{- basic_type_map[json_spec.type] }}
{%- elif json_spec.type == "array" %}
    {{- "list[" +  json_to_python_type(json_spec|items) + "]" }}
{%- elif json_spec.type is iterable and json_spec.type is not string %}
    {{- "Union[" }}
    {%- for t in json_spec.type %}
      {{- json_to_python_type({"type": t}) }}
      {%- if not loop.last %}
        {{- "," }}
      {%- endif %}
    {%- endfor %}
    {{- "]" }}
{%- else %}
    {{- "Any" }}
{%- endif %}
{%- endmacro %}
{%- for tool in tools or [] %}
    {{- '{"type": "function", "function": ' }}
    {{- '{"name": "' + tool.function.name + '", ' }}
    {{- '"description": "' + tool.function.name + '(' }}
    {%- for param_name, param_fields in tool.function.parameters.properties|items %}
        {{- param_name + ": " + json_to_python_type(param_fields) }}
        {%- if not loop.last %}
            {{- ", " }}
        {%- endif %}
    {%- endfor %}
    {{- ")" }}
    {{- ', "parameters": ' }}
    {%- if tool.function.parameters.properties | length == 0 %}
        {{- "{}" }}
    {%- else %}
        {{- tool.function.parameters|tojson }}
    {%- endif %}
    {{- "}" }}
    {%- if not loop.last %}
        {{- "\\n" }}
    {%- endif %}
{%- endfor %}""",
    "nemotron system": """{%- set ns = namespace(sys='', used=[]) -%}{%- for m in messages -%}{%- if m['role'] == 'system' -%}{%- set ns.sys = (m['content'] if m['content'] is string else m['content'] | map(attribute='text') | join('')) | trim -%}{%- endif -%}{%- endfor -%}{{ '<extra_id_0>System\\n' ~ ns.sys }}{%- if tools -%}{%- for tool in tools -%}{%- set t = tool.function if 'function' in tool else tool -%}{{ '\\n<tool> ' ~ {"name": t.name, "parameters": t.parameters.required} | tojson ~ ' </tool>' }}{%- endfor -%}{%- endif %}
{% for m in messages recursive %}{% if loop.depth > 3 %}{% break %}{% endif %}{% if m.role %}{{ loop.depth }}{{ m.role }}{% if m.content is sequence and m.content is not string %}{{ loop(m.content) }}{% endif %}{% else %}({{ m.type if m is mapping else m }}){% endif %}{% endfor %}""",
    # What several have in common.
    "controls": """{%- for m in messages -%}{%- if m.role == 'system' -%}{%- continue -%}{%- endif -%}{%- if loop.index > 4 -%}{{ '…' }}{%- break -%}{%- endif -%}{{ loop.index }}{{ loop.length }}{{ loop.revindex }}{{ m.role[0] }}{%- endfor -%}{%- for i in range(10, 0, -3) %} {{ i }}{%- endfor -%}""",
    "scopes": """{% set x = 1 %}{% for m in messages %}{% set x = x + 1 %}{{ x }}{% endfor %}{{ x }}{% if true %}{% set x = 9 %}{% endif %}{{ x }}{% macro f(a, b=x) %}{{ a }}{{ b }}{{ x }}{% endmacro %}{{ f(3) }}{% with y = x * 2 %}{{ y }}{% endwith %}{{ y is defined }}""",
    "macros with the rest": """{% macro tag(name) %}<{{ name }}{% for k, v in kwargs | dictsort %} {{ k }}={{ v | tojson }}{% endfor %}>{{ varargs | join('+') }}{{ caller() if caller }}</{{ name }}>{% endmacro %}{{ tag('a', 1, 2, z=none, b=[true]) }}{% call tag('b', 'x') %}in {{ messages | length }}{% endcall %}""",
    "texts": """{%- for m in messages if m.content is string %}{{ m.content.strip().upper()[:6] }}|{{ m.content.find('e') }}|{{ m.content.count('l') }}|{{ m.content | wordcount }}|{{ m.content.splitlines() }}|{{ m.content.partition(' ') }}|{{ m.content | truncate(7, true) }}|{{ m.content | capitalize }}|{{ m.content[-3:] }}|{{ m.content.removeprefix('<b>') }}|{{ m.content.title() }}
{% endfor %}""",
    "numbers": """{{ messages | length / 2 }} {{ messages | length // 4 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 2 ** 10 }} {{ 1e3 }} {{ 0.1 + 0.2 }} {{ 1_000 }} {{ 7.0 }} {{ 3 | float }} {{ '42' | int + 1 }} {{ '4.7' | float | round | int }} {{ 10 / 4 | round(1, 'floor') }} {{ [3, 1, 2] | sort(reverse=true) }} {{ [1, 2] + [3] }} {{ 5 > 4 > 3 }} {{ true + 1 }} {{ 1 == 1.0 }} {{ none == false }} {{ 1e16 }} {{ 1e-7 }} {{ 123456789.123 }}""",
    "tests of values": """{%- for v in [none, true, 0, 1.5, 'x', [], {}, (), undefined_name, messages[0]] %}{{ v is none }}{{ v is boolean }}{{ v is integer }}{{ v is float }}{{ v is number }}{{ v is string }}{{ v is sequence }}{{ v is iterable }}{{ v is mapping }}{{ v is defined }}{{ v is true }}{{ 1 if v else 0 }} {% endfor -%}{{ 3 is odd }}{{ 4 is divisibleby 2 }}{{ 'a' is in 'abc' }}{{ 'A' is upper }}{{ 2 is ge 2 }}{{ 'tojson' is filter }}{{ 'odd' is test }}{{ messages is sameas messages }}""",
    "chained conditions": """{%- for m in messages -%}{{ 'A' if m.role == 'user' else 'B' if m.role == 'assistant' and not m.tool_calls else 'C' if m.tool_calls else '' }}{{ (m.name or m.role) ~ (m.tool_call_id[-2:] if m.tool_call_id) }} {%- endfor -%}{{ not messages[0].x and messages[0].y is not defined or false }}{{ messages[0].get('x', {}).get('y', 'z') }}{{ messages[100] is defined }}{{ messages[-1]['role'] }}""",
    "dictionaries": """{%- set d = {'b': 1, 'a': [1, {'c': none}], 3: 'x'} -%}{{ d }} {{ d.items() | list }} {{ d | tojson }} {{ dict(d, z=1) | length }} {{ dict(a=1, **{'q': 2}) }} {{ d.update({'n': 1}) if false else d.get('q') }} {{ 'b' in d }} {{ d['a'][1].c is none }} {% for k in d %}{{ k }}{% endfor %} {{ {'x': 2, 'B': 1, 'a': 3} | dictsort(by='value') }} {{ {'x': 2, 'B': 1, 'a': 3} | dictsort(true) }} {{ d.pop is defined }}""",
    "raw and comments": """{% raw %}{{ not }} {% read %}{% endraw %}{#- gone -#}  {# kept space #} x {%- raw -%}  {{ y }}  {%- endraw -%} z
{{- '\\u00e9\\x41\\n\\t\\'' }}{{ "a" "b" }}{% set q %}  {{ messages | length }}  {% endset %}[{{ q }}][{{ q | trim }}]{{ '{{' }}{{ '%}' }}""",
}


def main():
    conversations = [
        (TALK, {}), (CALLS, {"tools": [SEARCH, WEATHER, EMPTY]}), (LISTS, {"tools": [EMPTY]}),
        (TALK, {"documents": DOCUMENTS, "arguments": {"enable_thinking": False, "thinking": True, "controls": {"citations": True, "length": "short"}, "builtin_tools": ["python", "code_interpreter"], "date_string": "1 Jan 2020"}}),
        ([user("u")], {"tools": [SEARCH], "documents": DOCUMENTS, "arguments": {"enable_thinking": True}}),
    ]
    found = []
    for name, template in PARTS.items():
        results = [render(template, messages, **options) for messages, options in conversations]
        found.append({"name": name, "template": template, "results": results})
        print(f"{name}: {sum('text' in result for result in results)} of {len(results)} rendered")
    stored = [{"messages": messages, **options} for messages, options in conversations]
    (ROOT / "parts.json").write_text(json.dumps({"conversations": stored, "parts": found}, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
