"""Anthropic's Python client, unchanged."""

import anthropic

from cases import MODEL, URL, Skip, case, run

client = anthropic.Anthropic(base_url=URL, api_key="none", max_retries=0, timeout=120)
SAY = [{"role": "user", "content": "What is the capital of France?"}]
# The client has no field of its own for it any more; the endpoint takes it.
GREEDY = {"temperature": 0}
TOOL = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


@case
def models():
    assert [model.id for model in client.models.list()] == [MODEL]


@case
def message():
    answer = client.messages.create(model=MODEL, messages=SAY, max_tokens=40, extra_body=GREEDY)
    assert "Paris" in answer.content[0].text, answer
    assert answer.stop_reason == "end_turn", answer
    return answer.content[0].text.strip()


@case
def message_stream():
    whole = client.messages.create(model=MODEL, messages=SAY, max_tokens=40, extra_body=GREEDY)
    with client.messages.stream(model=MODEL, messages=SAY, max_tokens=40, extra_body=GREEDY) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == whole.content[0].text
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert final.stop_reason == whole.stop_reason


@case
def stop_sequences():
    answer = client.messages.create(model=MODEL, messages=SAY, max_tokens=40, extra_body=GREEDY, stop_sequences=["Paris"])
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "Paris"), answer


@case
def thinking():
    answer = client.messages.create(
        model=MODEL, messages=SAY, max_tokens=1100, thinking={"type": "enabled", "budget_tokens": 1024}
    )
    return [block.type for block in answer.content]


@case
def count_tokens():
    counted = client.messages.count_tokens(model=MODEL, messages=SAY, system="Be brief.")
    answer = client.messages.create(model=MODEL, messages=SAY, system="Be brief.", max_tokens=1)
    assert counted.input_tokens == answer.usage.input_tokens
    return f"{counted.input_tokens} tokens"


@case
def a_call_that_must_come():
    try:
        answer = client.messages.create(
            model=MODEL, messages=SAY, tools=[TOOL], tool_choice={"type": "any"}, max_tokens=120
        )
    except anthropic.BadRequestError as error:
        if "constrain" in str(error) or "cannot" in str(error):
            raise Skip(error.body["error"]["message"]) from error
        raise
    call = next(block for block in answer.content if block.type == "tool_use")
    assert answer.stop_reason == "tool_use"
    told = [
        *SAY,
        {"role": "assistant", "content": answer.content},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}]},
    ]
    assert client.messages.create(model=MODEL, messages=told, tools=[TOOL], max_tokens=20).content is not None
    return call.input


@case
def an_error():
    try:
        client.messages.create(model="another", messages=SAY, max_tokens=4)
    except anthropic.NotFoundError as error:
        assert error.body["error"]["type"] == "not_found_error"
    else:
        raise AssertionError("it was answered")


run()
