"""`duologue bench`: a table for a person, an object for a program."""

import json


def test_a_table_and_an_object(run, tiny):
    options = ("bench", "--model", tiny, "--streams", 2, "--streams", 1, "--seconds", 0.5, "--history", 2)
    shown = run(*options)
    assert shown.exit_code == 0 and "after 2 s" in shown.stdout and "at once" in shown.stdout
    assert "real time" in shown.stdout.splitlines()[-1]
    assert "a sentence as a whole" in shown.stdout
    payload = json.loads(run(*options, "--json", "--quantize", "int8").stdout)
    assert [load["streams"] for load in payload["load"]] == [1, 2] and payload["quantize"] == "int8"
    assert payload["backend"] == "eager" and payload["whole_sentence_real_time_factor"] > 0
    assert [case["case"] for case in payload["latency"]] == ["cold voice", "known voice", "after 2 s"]
    assert all(case["first_audio_s"]["50"] > 0 for case in payload["latency"])


def test_bad_options(run, tiny):
    for options in (
        ("--seconds", 0),
        ("--history", -1),
        ("--streams", 0),
        ("--quantize", "int3"),
        ("--backend", "jit"),
    ):
        result = run("bench", "--model", tiny, *options)
        assert result.exit_code == 2 and result.stderr.count("\n") == 1, options
