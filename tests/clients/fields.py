"""Rows of docs/api.md, as any client would send them: the status, and for a refusal the field that is named."""

import json
import urllib.error
import urllib.request

from cases import MODEL, URL, case, run

SAY = [{"role": "user", "content": "Hi"}]
BLOCK = [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "http://example.com/a.png"}}]}]
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
BASE = {
    "/v1/chat/completions": {"messages": SAY, "max_tokens": 2},
    "/v1/completions": {"prompt": "Hi", "max_tokens": 2},
    "/v1/responses": {"input": "Hi", "max_output_tokens": 2},
    "/v1/messages": {"messages": SAY, "max_tokens": 2},
    "/v1/messages/count_tokens": {"messages": SAY},
    "/v1/embeddings": {"input": "Hi"},
    "/api/chat": {"messages": SAY, "stream": False, "options": {"num_predict": 2}},
    "/api/generate": {"prompt": "Hi", "stream": False, "options": {"num_predict": 2}},
    "/api/embed": {"input": "Hi"},
}
CHAT, PLAIN, ITEMS, MESSAGES, VECTORS, OLLAMA, GENERATE = (
    "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/embeddings", "/api/chat",
    "/api/generate",
)
# Path, fields, status, and for a refusal a part of the message.
ROWS = [
    (CHAT, {"temperature": 2}, 200, ""),
    (CHAT, {"temperature": 2.1}, 400, "`temperature`"),
    (CHAT, {"top_p": 0}, 400, "`top_p`"),
    (CHAT, {"top_k": -1}, 200, ""),
    (CHAT, {"min_p": 0.1, "presence_penalty": 1, "frequency_penalty": -2, "repetition_penalty": 1.1}, 200, ""),
    (CHAT, {"seed": -5, "n": 2, "stop": ["a", "b"]}, 200, ""),
    (CHAT, {"n": 17}, 400, "`n`"),
    (CHAT, {"logit_bias": {"5": 1}}, 200, ""),
    (CHAT, {"stop_token_ids": [1], "min_tokens": 1, "ignore_eos": True}, 200, ""),
    (CHAT, {"min_tokens": 3}, 400, "`min_tokens`"),
    (CHAT, {"stream_options": {"include_usage": True}}, 400, "`stream_options`"),
    (CHAT, {"max_completion_tokens": 2}, 200, ""),
    (CHAT, {"max_completion_tokens": 3}, 400, "`max_completion_tokens`"),
    (CHAT, {"json_schema": {}}, 400, "`json_schema`"),
    (CHAT, {"bad_words": []}, 200, ""),
    (CHAT, {"bad_words": ["x"]}, 400, "`bad_words`"),
    (CHAT, {"typical_p": 0.5}, 400, "`typical_p`"),
    (CHAT, {"mirostat": 2}, 400, "`mirostat`"),
    (CHAT, {"skip_special_tokens": False}, 400, "`skip_special_tokens`"),
    (CHAT, {"response_format": {"type": "json_object"}}, 200, ""),
    (CHAT, {"response_format": {"type": "xml"}}, 400, "`response_format.type`"),
    (CHAT, {"guided_choice": ["yes", "no"]}, 200, ""),
    (CHAT, {"guided_choice": ["yes"], "guided_regex": "a"}, 400, "at most one"),
    (CHAT, {"guided_regex": "a", "ignore_eos": True}, 400, "`ignore_eos`"),
    (CHAT, {"structured_outputs": {"more": 1}}, 400, "`structured_outputs.more`"),
    (CHAT, {"messages": [{"role": "developer", "content": "x"}, *SAY]}, 200, ""),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, 400, "not text"),
    (CHAT, {"logprobs": True, "top_logprobs": 2}, 200, ""),
    (CHAT, {"top_logprobs": 2}, 400, "`top_logprobs`"),
    (CHAT, {"tools": [FUNCTION], "tool_choice": "none", "parallel_tool_calls": False}, 200, ""),
    (CHAT, {"tools": [{"type": "web_search"}]}, 400, "`tools[0].type`"),
    (CHAT, {"reasoning_effort": "none"}, 200, ""),
    (CHAT, {"reasoning_effort": "much"}, 400, "`reasoning_effort`"),
    (CHAT, {"chat_template_kwargs": {"tools": []}}, 400, "`chat_template_kwargs.tools`"),
    (CHAT, {"functions": [{}]}, 400, "`functions`"),
    (CHAT, {"modalities": ["text"], "verbosity": "medium", "echo": False}, 200, ""),
    (CHAT, {"modalities": ["audio"]}, 400, "`modalities`"),
    (CHAT, {"verbosity": "low"}, 400, "`verbosity`"),
    (CHAT, {"continue_final_message": True}, 400, "`continue_final_message`"),
    (CHAT, {"user": "a", "metadata": {}, "store": True, "service_tier": "auto", "unheard_of": 1}, 200, ""),
    (CHAT, {"model": None}, 400, "`model`"),
    (CHAT, {"model": "x"}, 404, "not served"),
    (PLAIN, {"prompt": []}, 400, "`prompt`"),
    (PLAIN, {"prompt": [[1, 2], [3]], "logprobs": 1}, 200, ""),
    (PLAIN, {"echo": True}, 200, ""),
    (PLAIN, {"echo": True, "logprobs": 1}, 400, "`echo`"),
    (PLAIN, {"best_of": 2}, 400, "`best_of`"),
    (PLAIN, {"suffix": "x"}, 400, "`suffix`"),
    (ITEMS, {"instructions": "Be brief.", "store": False, "metadata": {"a": "b"}, "top_k": 5}, 200, ""),
    (ITEMS, {"previous_response_id": "resp_none"}, 400, "`previous_response_id`"),
    (ITEMS, {"tools": [{"type": "web_search"}, {"type": "namespace", "name": "n"}]}, 200, ""),
    (ITEMS, {"tools": [{"type": "custom", "name": "patch"}]}, 200, ""),
    (ITEMS, {"tools": [{"type": "teleport"}]}, 400, "`tools[0].type`"),
    (ITEMS, {"include": ["reasoning.encrypted_content"], "reasoning": {"effort": "none", "summary": "auto"}}, 200, ""),
    (ITEMS, {"include": ["message.output_text.logprobs"]}, 400, "`include[0]`"),
    (ITEMS, {"text": {"format": {"type": "text"}, "verbosity": "medium"}, "truncation": "disabled"}, 200, ""),
    (ITEMS, {"truncation": "auto"}, 400, "`truncation`"),
    (ITEMS, {"background": True}, 400, "`background`"),
    (ITEMS, {"top_logprobs": 1}, 400, "`top_logprobs`"),
    (ITEMS, {"conversation": "c"}, 400, "`conversation`"),
    (ITEMS, {"max_tool_calls": 3, "client_metadata": {}, "prompt_cache_key": "k"}, 200, ""),
    (MESSAGES, {"max_tokens": None}, 400, "`max_tokens`"),
    (MESSAGES, {"max_tokens": 10**6, "stop_sequences": ["."]}, 200, ""),
    (MESSAGES, {"system": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]}, 200, ""),
    (MESSAGES, {"messages": BLOCK}, 400, "not text"),
    (MESSAGES, {"messages": [*SAY, {"role": "assistant", "content": "x"}]}, 400, "messages[1].role"),
    (MESSAGES, {"temperature": 1.5}, 400, "`temperature`"),
    (MESSAGES, {"thinking": {"type": "enabled"}}, 400, "`thinking.budget_tokens`"),
    (MESSAGES, {"thinking": {"type": "adaptive", "display": "omitted"}}, 200, ""),
    (MESSAGES, {"tools": [{"name": "f", "input_schema": {}}], "tool_choice": {"type": "none"}}, 200, ""),
    (MESSAGES, {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, 400, "`tools[0].type`"),
    (MESSAGES, {"output_config": {"effort": "high"}, "context_management": {}, "metadata": {"user_id": "a"}}, 200, ""),
    (MESSAGES, {"mcp_servers": [{}]}, 400, "`mcp_servers`"),
    ("/v1/messages/count_tokens", {"tools": [{"name": "f", "input_schema": {}}]}, 200, ""),
    (VECTORS, {"dimensions": 8, "encoding_format": "base64", "pooling": "mean", "user": "a"}, 200, ""),
    (VECTORS, {"dimensions": 100000}, 400, "`dimensions`"),
    (VECTORS, {"input": [""]}, 400, "`input"),
    (VECTORS, {"pooling": "max"}, 400, "`pooling`"),
    (OLLAMA, {"model": f"{MODEL}:latest", "think": False, "keep_alive": "5m"}, 200, ""),
    (OLLAMA, {"think": "much"}, 400, "`think`"),
    (OLLAMA, {"messages": []}, 200, ""),
    (OLLAMA, {"options": {"num_ctx": 100, "num_gpu": 1, "repeat_last_n": 0, "num_predict": 1}}, 200, ""),
    (OLLAMA, {"options": {"repeat_last_n": 64}}, 400, "`options.repeat_last_n`"),
    (OLLAMA, {"options": {"mirostat": 1}}, 400, "`options.mirostat`"),
    (OLLAMA, {"options": {"num_predict": 0}}, 400, "`options.num_predict`"),
    (GENERATE, {"raw": True, "template": "", "context": []}, 200, ""),
    (GENERATE, {"template": "x"}, 400, "`template`"),
    (GENERATE, {"images": ["x"]}, 400, "`images`"),
    (GENERATE, {"suffix": "x"}, 400, "`suffix`"),
    ("/api/embed", {"truncate": False, "dimensions": 4}, 200, ""),
    ("/api/pull", {}, 403, "owner"),
]


def ask(path, body):
    request = urllib.request.Request(URL + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@case
def rows():
    wrong = []
    for path, fields, status, part in ROWS:
        came, text = ask(path, {"model": MODEL, **BASE.get(path, {}), **fields})
        if came != status or part not in text:
            wrong.append(f"{path} {fields}: {came} {text[:300]}, expected {status} {part}")
    assert not wrong, "\n".join(wrong)
    return f"{len(ROWS)} rows"


run()
