"""Ollama's Python client, unchanged."""

import json

import ollama

from cases import MODEL, URL, Skip, case, run

client = ollama.Client(host=URL, timeout=120)
SAY = [{"role": "user", "content": "What is the capital of France?"}]
GREEDY = {"temperature": 0, "num_predict": 40}


@case
def models():
    assert [entry.model for entry in client.list().models] == [f"{MODEL}:latest"]
    shown = client.show(MODEL)
    assert "completion" in shown.capabilities
    assert [entry.model for entry in client.ps().models] == [f"{MODEL}:latest"]
    return shown.details.quantization_level, shown.capabilities


@case
def chat():
    answer = client.chat(model=MODEL, messages=SAY, options=GREEDY)
    assert "Paris" in answer.message.content, answer
    assert answer.done and answer.eval_count > 0
    return answer.message.content.strip()


@case
def chat_stream():
    whole = client.chat(model=MODEL, messages=SAY, options=GREEDY)
    parts = list(client.chat(model=MODEL, messages=SAY, options=GREEDY, stream=True))
    assert "".join(part.message.content for part in parts) == whole.message.content
    assert parts[-1].done and parts[-1].done_reason == "stop"
    return f"{len(parts)} lines"


@case
def generate():
    answer = client.generate(model=MODEL, prompt="What is the capital of France?", options=GREEDY)
    assert "Paris" in answer.response, answer
    parts = list(client.generate(model=MODEL, prompt="Once upon", raw=True, options=GREEDY, stream=True))
    assert parts[-1].done


@case
def embed():
    answer = client.embed(model=MODEL, input=["a cat", "a dog"])
    assert len(answer.embeddings) == 2
    one = client.embeddings(model=MODEL, prompt="a cat").embedding
    assert list(one) == list(answer.embeddings[0])


@case
def chat_with_a_schema():
    schema = {
        "type": "object",
        "properties": {"legs": {"type": "integer", "minimum": 0, "maximum": 100}},
        "required": ["legs"],
        "additionalProperties": False,
    }
    try:
        answer = client.chat(model=MODEL, messages=SAY, format=schema, options={"num_predict": 100})
    except ollama.ResponseError as error:
        if error.status_code == 400 and "cannot honour" in error.error:
            raise Skip(error.error) from error
        raise
    return json.loads(answer.message.content)["legs"]


@case
def an_error():
    try:
        client.chat(model="another", messages=SAY)
    except ollama.ResponseError as error:
        assert error.status_code == 404, error
    else:
        raise AssertionError("it was answered")


run()
