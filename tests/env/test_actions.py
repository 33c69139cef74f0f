"""Parsing of actions: exact tables, the way back, and 2,000 broken texts that each become a value."""

import random

import pytest

from env.actions import REASONS, format_decision, key_frame_in, parse_action
from env.types import Answer, Interval, Malformed, Select

THINK = "<think>Step 1 .. Action: look closer</think>\n"
JSON = '{"start": 3, "end": 8, "keyframe": 5}'
SEG = "<RefSeg>[SEG]</RefSeg>"


def block(name="answer", fields=JSON, seg=SEG):
    return f"<{name}><VTG>{fields}</VTG>, {seg}</{name}>"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (THINK + block("select"), Select(Interval(3, 9), 5)),
        (THINK + block("answer"), Answer(Interval(3, 9), 5)),
        ("<think></think>" + block(), Answer(Interval(3, 9), 5)),
        (" \n" + THINK + block() + " <|im_end|>\n", Answer(Interval(3, 9), 5)),
        (THINK + f"<select>{JSON}, {SEG}</select>", Select(Interval(3, 9), 5)),
        (THINK + f"<select>\n{JSON}\n{SEG}\n</select>", Select(Interval(3, 9), 5)),
        (THINK + f"<answer> <VTG> {JSON} </VTG> {SEG} </answer>", Answer(Interval(3, 9), 5)),
        (THINK + block(fields='{"keyframe": 0, "end": 9, "start": 0}'), Answer(Interval(0, 10), 0)),
        (THINK + block(fields='{"start":4,"end":4,"keyframe":9}'), Answer(Interval(4, 5), 9)),
        ("<think>a < b, {x} [y] \u72d7 \u0643\u0644\u0628 \U0001f415</think>" + block(), Answer(Interval(3, 9), 5)),
    ],
)
def test_well_formed_actions_are_read(text, expected):
    assert parse_action(text, 10) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no_seg"),
        ("<|im_end|>", "no_seg"),
        (THINK + block(seg="<RefSeg></RefSeg>"), "no_seg"),
        (THINK + block(seg="<RefSeg>[SEG][SEG]</RefSeg>"), "many_segs"),
        ("<think>[SEG]</think>" + block(), "many_segs"),
        (THINK + SEG, "no_block"),
        (THINK + block("choose"), "no_block"),
        (THINK + block("ANSWER"), "no_block"),
        (THINK + block("select") + block("answer", seg=""), "many_blocks"),
        (THINK + f"<select><answer>{JSON}, {SEG}</answer></select>", "many_blocks"),
        (block(), "tags"),  # no thinking
        (block() + THINK, "tags"),
        (THINK + THINK + block(), "tags"),
        ("<think><think>x</think></think>" + block(), "tags"),
        ("<think>x</think></think>" + block(), "tags"),
        ("<think>" + block() + "</think>", "tags"),
        (THINK + block()[:-1], "tags"),
        (THINK + block(seg="[SEG]"), "tags"),
        (THINK + f"<answer>{SEG}<VTG>{JSON}</VTG></answer>", "tags"),
        (THINK + f"<answer><VTG>{JSON}</VTG></answer>{SEG}", "tags"),
        (THINK + f"<answer><VTG><VTG>{JSON}</VTG></VTG>, {SEG}</answer>", "tags"),
        ("Sure! " + THINK + block(), "outside_text"),
        (THINK + "so " + block(), "outside_text"),
        (THINK + block() + " done", "outside_text"),
        (THINK + block() + "<|im_end|> more", "control_token"),
        (THINK + block(seg="the dog <RefSeg>[SEG]</RefSeg>"), "outside_text"),
        (THINK + block(seg="<RefSeg>it is [SEG]</RefSeg>"), "outside_text"),
        (THINK + f"<answer>x<VTG>{JSON}</VTG>, {SEG}</answer>", "outside_text"),
        ("<think><|image_pad|></think>" + block(), "media_token"),
        ("<think><|vision_start|></think>" + block(), "media_token"),
        ("<think><|video_pad|></think>" + block(), "media_token"),
        ("<think><|im_start|>user</think>" + block(), "control_token"),
        (THINK + block() + "<|im_end|><|im_end|>", "control_token"),
        (THINK + block() + "<|endoftext|>", "control_token"),
        (THINK + block(fields=""), "json"),
        (THINK + block(fields="3 8 5"), "json"),
        (THINK + block(fields="[3, 8, 5]"), "json"),
        (THINK + block(fields="null"), "json"),
        (THINK + block(fields="{'start': 3, 'end': 8, 'keyframe': 5}"), "json"),
        (THINK + block(fields='{"start": 3, "end": 8, "keyframe": 5,}'), "json"),
        (THINK + block(fields='{"start": 03, "end": 8, "keyframe": 5}'), "json"),
        (THINK + block(fields='{"start": 1_0, "end": 8, "keyframe": 5}'), "json"),
        (THINK + block(fields='{"start": 0x3, "end": 8, "keyframe": 5}'), "json"),
        (THINK + block(fields=JSON + JSON), "json"),
        (THINK + block(fields='{"start": {"a": 1}, "end": 8, "keyframe": 5}'), "json"),
        (THINK + block(fields='{"start": [3], "end": 8, "keyframe": 5}'), "json"),
        (THINK + block(fields='{"start": ' + "9" * 5000 + ', "end": 8, "keyframe": 5}'), "json"),
        (THINK + block(fields="{}"), "keys"),
        (THINK + block(fields='{"start": 3, "end": 8}'), "keys"),
        (THINK + block(fields='{"start": 3, "end": 8, "keyframe": 5, "why": 1}'), "keys"),
        (THINK + block(fields='{"start": 3, "end": 8, "keyframe": 5, "end": 9}'), "keys"),
        (THINK + block(fields='{"start": 3, "end": 8, "key_frame": 5}'), "keys"),
        (THINK + block(fields='{"start": true, "end": 8, "keyframe": 5}'), "not_integer"),
        (THINK + block(fields='{"start": 3.0, "end": 8, "keyframe": 5}'), "not_integer"),
        (THINK + block(fields='{"start": 3, "end": 1e1, "keyframe": 5}'), "not_integer"),
        (THINK + block(fields='{"start": NaN, "end": 8, "keyframe": 5}'), "not_integer"),
        (THINK + block(fields='{"start": -Infinity, "end": 8, "keyframe": 5}'), "not_integer"),
        (THINK + block(fields='{"start": "3", "end": 8, "keyframe": 5}'), "not_integer"),
        (THINK + block(fields='{"start": null, "end": 8, "keyframe": 5}'), "not_integer"),
        (THINK + block(fields='{"start": 8, "end": 3, "keyframe": 5}'), "reversed"),
        (THINK + block(fields='{"start": -1, "end": 8, "keyframe": 5}'), "out_of_range"),
        (THINK + block(fields='{"start": 3, "end": 10, "keyframe": 5}'), "out_of_range"),
        (THINK + block(fields='{"start": 3, "end": 8, "keyframe": 10}'), "out_of_range"),
        (THINK + block(fields='{"start": 3, "end": 8, "keyframe": -1}'), "out_of_range"),
        (THINK + block(fields='{"start": 3, "end": ' + "9" * 100 + ', "keyframe": 5}'), "out_of_range"),
        ("x" * (1 << 17) + "x", "too_much_text"),
    ],
)
def test_every_mistake_has_its_reason(text, reason):
    decision = parse_action(text, 10)
    assert isinstance(decision, Malformed) and decision.reason == reason
    assert len(decision.detail) <= 80


def test_cut_off_text_is_malformed_even_if_it_parses():
    assert parse_action(THINK + block(), 10, finish="length") == Malformed("cut_off")


def test_reasons_are_one_sentence_each():
    assert all(text.endswith(".") and text.count(".") == 1 for text in REASONS.values())


def test_a_formatted_decision_reads_back():
    assert format_decision(Select(Interval(3, 9), 5)) == block("select")
    for num_frames in (1, 2, 5):
        for start in range(num_frames):
            for end in range(start + 1, num_frames + 1):
                for key_frame in range(num_frames):
                    for kind in (Select, Answer):
                        decision = kind(Interval(start, end), key_frame)
                        assert parse_action(THINK + format_decision(decision), num_frames) == decision


PIECES = [
    *("<think>", "</think>", "<select>", "</select>", "<answer>", "</answer>"),
    *("<VTG>", "</VTG>", "<RefSeg>", "</RefSeg>"),
    *("[SEG]", "[SEG", "SEG]", "<p>", "<", ">", "</", "<|", "|>", "<|image_pad|>", "<|video_pad|>", "<|vision_start|>"),
    *("<|im_end|>", "<|im_start|>assistant\n", "<|endoftext|>", "<tool_call>", ",", " ", "\n", "\t", "\0", "\x1b[2J"),
    *("{", "}", "[", "]", '"', "'", ":", '"start"', '"end"', '"keyframe"', "start", "null", "true", "NaN", "Infinity"),
    *("0", "-0", "7", "007", "1e5", "1e999", "-1", "3.5", "0x10", "\u0663", "\uff15", "9" * 5000, "-" + "9" * 300),
    *("{" * 3000, "[" * 100_000, '{"a":' * 2000, "<think>" * 5000, "<" * 20_000, "<|" * 20_000, " " * 50_000),
    *("\u72d7\u8dd1", "\u0643\u0644\u0628", "\u0915\u0941\u0924\u094d\u0924\u093e", "\U0001f415", "\u202e", "\ud800"),
    *("<script>alert(1)</script>", "\\u0000", "\ufeff", JSON, SEG, THINK, block("select"), block("answer")),
]
VALUES = ["3", "8", "5", "-1", "true", "null", "3.0", "1e400", "NaN", '"3"', "[3]", "{}", "9" * 400, "", "\u0663"]


def fuzzed(rng: random.Random) -> str:
    """Return a text of one of four kinds: random pieces, a mutated valid text, odd JSON in valid tags, a valid text."""
    kind = rng.randrange(4)
    if kind == 0:
        return "".join(rng.choice(PIECES) for _ in range(rng.randint(0, 30)))
    if kind == 1:
        text = THINK + block(rng.choice(("select", "answer")))
        for _ in range(rng.randint(1, 5)):
            left, right = sorted(rng.randrange(len(text) + 1) for _ in range(2))
            middle = rng.choice(("", rng.choice(PIECES), text[left:right] * 2))
            text = text[:left] + middle + text[rng.choice((left, right)) :]
        return text
    keys = rng.choices(("start", "end", "keyframe", "Start", "\u72d7"), (4, 4, 4, 1, 1), k=rng.randint(0, 4))
    if kind == 2:
        fields = ", ".join(f'"{key}": {rng.choice(VALUES)}' for key in keys)
        return THINK + block(fields="{" + fields + "}")
    start, end, key_frame = (rng.randint(-2, 12) for _ in range(3))
    return THINK + block(fields=f'{{"start": {start}, "end": {end}, "keyframe": {key_frame}}}')


def test_2000_fuzzed_texts_become_values():
    rng = random.Random(0)
    seen = set()
    for _ in range(2000):
        text = fuzzed(rng)
        decision = parse_action(text, 10)
        if isinstance(decision, Malformed):
            seen.add(decision.reason)
            assert decision.reason in REASONS
        else:
            seen.add("fine")
            interval = decision.interval
            assert 0 <= interval.start < interval.end <= 10 and 0 <= decision.key_frame < 10
            assert text.count("[SEG]") == 1
    assert seen == {"fine", *REASONS} - {"cut_off"}  # the fuzzer reaches every branch


def test_the_longest_texts_are_parsed_in_linear_time():
    for piece in ("<", "<|", "<think>", "</think>", "[SEG]", "<VTG>{", " ", '"', "<|a", "\\"):
        text = (piece * (1 << 17))[: 1 << 17]
        assert isinstance(parse_action(text, 10), Malformed)
        assert isinstance(parse_action(THINK[:7] + text[: 1 << 16] + "</think>" + block(), 10), Malformed | Answer)


# Numbers outside of the video, with `env.bounds: clamp`

INSIDE, ONE_FRAME = '{"start": 3, "end": 8, "keyframe": 5}', '{"start": 0, "end": 0, "keyframe": 0}'


@pytest.mark.parametrize(
    ("fields", "num_frames", "expected"),
    [
        ('{"start":0,"end":5,"keyframe":4}', 5, (0, 5, 4)),  # frames 0 to 4
        ('{"start": 3, "end": 8, "keyframe": 99}', 20, (3, 9, 19)),
        ('{"start": -7, "end": -2, "keyframe": -1}', 20, (0, 1, 0)),
        ('{"start": 30, "end": 25, "keyframe": 3}', 20, (19, 20, 3)),  # compared after it is moved
        ('{"start": 21, "end": 40, "keyframe": 22}', 20, (19, 20, 19)),
        ('{"start": 3.9, "end": 8.2, "keyframe": -0.5}', 20, (3, 9, 0)),  # cut, not rounded
        ('{"start": 1e30, "end": 1e31, "keyframe": 1e32}', 20, (19, 20, 19)),
        ('{"start": ' + "9" * 100 + ', "end": ' + "9" * 50 + ', "keyframe": -' + "9" * 9 + "}", 20, (19, 20, 0)),
        ('{"start": "3", "end": " 8 ", "keyframe": true}', 20, (3, 9, 1)),
        (ONE_FRAME, 1, (0, 1, 0)),
        (INSIDE, 20, (3, 9, 5)),
    ],
)
def test_clamp_moves_numbers_to_the_nearest_frame(fields: str, num_frames: int, expected: tuple[int, int, int]):
    start, end, key_frame = expected
    for name, decision in (("answer", Answer), ("select", Select)):
        wanted = decision(Interval(start, end), key_frame)
        assert parse_action(THINK + block(name, fields), num_frames, bounds="clamp") == wanted
        refused = parse_action(THINK + block(name, fields), num_frames)
        is_inside = fields in (INSIDE, ONE_FRAME)
        assert refused == wanted if is_inside else isinstance(refused, Malformed)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ('{"start": 8, "end": 3, "keyframe": 5}', "reversed"),
        ('{"start": 8.9, "end": 7.99, "keyframe": 5}', "reversed"),
        ('{"start": 1e400, "end": 8, "keyframe": 5}', "not_integer"),
        ('{"start": NaN, "end": 8, "keyframe": 5}', "not_integer"),
        ('{"start": 3, "end": -Infinity, "keyframe": 5}', "not_integer"),
        ('{"start": null, "end": 8, "keyframe": 5}', "not_integer"),
        ('{"start": "three", "end": 8, "keyframe": 5}', "not_integer"),
        ('{"start": "", "end": 8, "keyframe": 5}', "not_integer"),
        ('{"start": "3.5", "end": 8, "keyframe": 5}', "not_integer"),
        ('{"start": [3], "end": 8, "keyframe": 5}', "json"),
        ('{"start": 3, "end": 8}', "keys"),
        ('{"start": ' + "9" * 200 + ', "end": 8, "keyframe": 5}', "json"),
    ],
)
def test_clamp_makes_no_numbers_up(fields: str, reason: str):
    decision = parse_action(THINK + block(fields=fields), 20, bounds="clamp")
    assert isinstance(decision, Malformed) and decision.reason == reason


def test_2000_fuzzed_texts_become_values_with_clamp():
    rng = random.Random(1)
    refused = clamped = 0
    for _ in range(2000):
        text = fuzzed(rng)
        decision, strict = parse_action(text, 10, bounds="clamp"), parse_action(text, 10)
        refused += isinstance(strict, Malformed)
        clamped += isinstance(decision, Malformed)
        if not isinstance(strict, Malformed):
            assert decision == strict, "what is inside of the video is not moved"
        if not isinstance(decision, Malformed):
            assert 0 <= decision.interval.start < decision.interval.end <= 10 and 0 <= decision.key_frame < 10
    assert 0 < clamped < refused


def test_the_json_text_is_bounded():
    """Longer numbers would be converted digit by digit in more than linear time."""
    short = '{"start": 3, "end": 8, "keyframe": 5}'
    for length, reason in ((200, None), (201, "json")):
        decision = parse_action(THINK + block(fields=short[:-1] + " " * (length - len(short)) + "}"), 10)
        assert (decision.reason if isinstance(decision, Malformed) else None) == reason
    digits = '{"start": 3, "end": 8, "keyframe": ' + "9" * 10_000 + "}"
    for bounds in ("refuse", "clamp"):
        decision = parse_action(THINK + block(fields=digits), 10, bounds=bounds)
        assert isinstance(decision, Malformed) and decision.reason == "json"


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        (block("answer"), "answer", 5),
        ("no think, [SEG] " + block("answer") + " and more", "answer", 5),
        (block("answer"), "select", None),
        (block("select", '{"keyframe": 3}') + block("select", '{"keyframe": 99}'), "select", 9),  # the last one
        ("<answer><VTG>{'keyframe': 3}</VTG></answer>", "answer", None),  # no JSON
        ('<answer><VTG>{"start": 1}</VTG></answer>', "answer", None),
        ('<answer>{"keyframe": -2.5}', "answer", None),  # not closed
        ('<answer>{"keyframe": -2.5}</answer>', "answer", 0),
        ('</answer>{"keyframe": 3}<answer>', "answer", None),
        ('<answer>{"keyframe": [1]}</answer>', "answer", None),
        ('<answer>{"keyframe": NaN}</answer>', "answer", None),
        ('<answer>{"a": {"keyframe": 4}}</answer>', "answer", None),
        ("<answer>}{</answer>", "answer", None),
        ("<answer>{" + " " * 300 + '"keyframe": 4}</answer>', "answer", None),
        ("", "answer", None),
    ],
)
def test_the_key_frame_is_found_in_malformed_text(text: str, name: str, expected: int | None):
    assert key_frame_in(text, 10, name) == expected
