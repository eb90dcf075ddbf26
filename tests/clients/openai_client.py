"""OpenAI's Python client, unchanged."""

import base64
import json
import struct

import openai
import pydantic

from cases import MODEL, URL, Skip, case, run

client = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0, timeout=120)
SAY = [{"role": "user", "content": "What is the capital of France?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


class Animal(pydantic.BaseModel):
    """What the model is asked for. The bounds end the answer of a small model in time."""

    kind: str = pydantic.Field(max_length=12)
    legs: int = pydantic.Field(ge=0, le=100)


@case
def models():
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL


@case
def chat():
    answer = client.chat.completions.create(model=MODEL, messages=SAY, temperature=0, max_tokens=40)
    text = answer.choices[0].message.content
    assert "Paris" in text, text
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    return text.strip()


@case
def chat_stream():
    whole = client.chat.completions.create(model=MODEL, messages=SAY, temperature=0, max_tokens=40)
    parts, usage = [], None
    for event in client.chat.completions.create(
        model=MODEL, messages=SAY, temperature=0, max_tokens=40, stream=True, stream_options={"include_usage": True}
    ):
        usage = event.usage or usage
        parts += [choice.delta.content or "" for choice in event.choices]
    assert "".join(parts) == whole.choices[0].message.content
    assert usage == whole.usage, usage
    return f"{len(parts)} events"


@case
def log_probabilities_and_choices():
    answer = client.chat.completions.create(
        model=MODEL, messages=SAY, n=2, seed=7, logprobs=True, top_logprobs=3, max_tokens=8
    )
    assert len(answer.choices) == 2
    for choice in answer.choices:
        assert all(len(token.top_logprobs) == 3 for token in choice.logprobs.content)


@case
def a_model_that_is_not_served():
    try:
        client.chat.completions.create(model="another", messages=SAY)
    except openai.NotFoundError as error:
        assert error.code == "model_not_found"
    else:
        raise AssertionError("it was answered")


@case
def parse_with_a_schema():
    answer = client.chat.completions.parse(
        model=MODEL, messages=[{"role": "user", "content": "Describe a cat."}], response_format=Animal, max_tokens=120
    )
    animal = answer.choices[0].message.parsed
    assert isinstance(animal, Animal), answer
    return animal


@case
def parse_with_a_schema_streaming():
    with client.chat.completions.stream(
        model=MODEL, messages=[{"role": "user", "content": "Describe a hen."}], response_format=Animal, max_tokens=120
    ) as stream:
        for _ in stream:
            pass
        animal = stream.get_final_completion().choices[0].message.parsed
    assert isinstance(animal, Animal)
    return animal


def needs_constrained_calls(ask):
    try:
        return ask()
    except openai.BadRequestError as error:
        if error.code == "unsupported_parameter" and error.param in ("tool_choice", "tools", "text.format"):
            raise Skip(error.message) from error
        raise


@case
def a_required_call():
    answer = needs_constrained_calls(
        lambda: client.chat.completions.create(
            model=MODEL, messages=SAY, tools=[TOOL], tool_choice="required", max_tokens=120
        )
    )
    call = answer.choices[0].message.tool_calls[0]
    assert call.function.name == "get_weather"
    assert answer.choices[0].finish_reason == "tool_calls"
    arguments = json.loads(call.function.arguments)
    assert list(arguments) == ["city"]
    told = [
        *SAY,
        answer.choices[0].message,
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
    ]
    assert client.chat.completions.create(model=MODEL, messages=told, tools=[TOOL], max_tokens=20).choices
    return arguments


@case
def parse_a_strict_tool():
    tool = openai.pydantic_function_tool(Animal, name="note_animal")
    answer = needs_constrained_calls(
        lambda: client.chat.completions.parse(
            model=MODEL, messages=SAY, tools=[tool], tool_choice="required", max_tokens=160
        )
    )
    parsed = answer.choices[0].message.tool_calls[0].function.parsed_arguments
    assert isinstance(parsed, Animal)
    return parsed


@case
def a_call_of_the_models_own():
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        tools=[TOOL],
        temperature=0,
        max_tokens=80,
    )
    calls = answer.choices[0].message.tool_calls
    if not calls:
        raise Skip("the bundled model answered in words")
    assert answer.choices[0].finish_reason == "tool_calls"
    return calls[0].function.name, json.loads(calls[0].function.arguments)


@case
def plain_completion():
    answer = client.completions.create(model=MODEL, prompt=["Once upon", "The cat"], max_tokens=8, temperature=0)
    assert [choice.index for choice in answer.choices] == [0, 1]


@case
def response():
    answer = client.responses.create(model=MODEL, input="What is the capital of France?", temperature=0)
    assert "Paris" in answer.output_text, answer
    more = client.responses.create(model=MODEL, input="And now?", previous_response_id=answer.id, max_output_tokens=16)
    assert more.usage.input_tokens > answer.usage.input_tokens
    assert client.responses.retrieve(answer.id).output_text == answer.output_text
    client.responses.delete(answer.id)
    try:
        client.responses.retrieve(answer.id)
    except openai.NotFoundError:
        return
    raise AssertionError("it is still there")


@case
def response_stream():
    kinds = []
    with client.responses.stream(model=MODEL, input="Tell me a story.", temperature=0, max_output_tokens=60) as stream:
        for event in stream:
            kinds.append(event.type)
        answer = stream.get_final_response()
    assert kinds[0] == "response.created", kinds
    assert kinds[-1] in ("response.completed", "response.incomplete"), kinds
    assert "response.output_text.delta" in kinds
    assert answer.output_text
    return f"{len(kinds)} events, {answer.status}"


@case
def response_with_a_required_call():
    tool = {"type": "function", "name": "get_weather", "parameters": TOOL["function"]["parameters"], "strict": True}
    answer = needs_constrained_calls(
        lambda: client.responses.create(model=MODEL, input="Paris?", tools=[tool], tool_choice="required")
    )
    call = next(item for item in answer.output if item.type == "function_call")
    more = client.responses.create(
        model=MODEL,
        previous_response_id=answer.id,
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}],
        tools=[tool],
        max_output_tokens=20,
        tool_choice="none",
    )
    assert more.output
    return call.arguments


@case
def response_with_a_schema():
    answer = needs_constrained_calls(
        lambda: client.responses.parse(model=MODEL, input="Describe a cat.", text_format=Animal, max_output_tokens=200)
    )
    assert isinstance(answer.output_parsed, Animal)
    return answer.output_parsed


@case
def embeddings():
    answer = client.embeddings.create(model=MODEL, input=["a cat", "a dog"], dimensions=32)
    assert [len(entry.embedding) for entry in answer.data] == [32, 32]
    assert abs(sum(value * value for value in answer.data[0].embedding) - 1) < 1e-4
    packed = client.embeddings.create(model=MODEL, input="a cat", dimensions=32, encoding_format="base64")
    values = struct.unpack("<32f", base64.b64decode(packed.data[0].embedding))
    assert max(abs(a - b) for a, b in zip(values, answer.data[0].embedding)) < 1e-6


run()
