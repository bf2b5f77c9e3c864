import pytest

from itpn_ray.tracking.redact import redact, redact_value


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("s3://key:secret@bucket/x", "s3://***@bucket/x"),
        ("s3://key:se/c@ret@bucket/x", "s3://***@bucket/x"),
        ("https://ghp_token@host/repo", "https://***@host/repo"),
        (
            '{"uri": "http://u:p@h", "b": "http://u:q@h"}',
            '{"uri": "http://***@h", "b": "http://***@h"}',
        ),
        ("s3://b/x?secret_key=abc&region=eu", "s3://b/x?secret_key=***&region=eu"),
        ("https://h/x?X-Amz-Signature=9f", "https://h/x?X-Amz-Signature=***"),
        ("http://host:5000/path", "http://host:5000/path"),
        ("mail me@home, see http://host/a", "mail me@home, see http://host/a"),
        ("s3://b/x?epoch=3&size=4", "s3://b/x?epoch=3&size=4"),
    ],
)
def test_redact(text: str, clean: str) -> None:
    assert redact(text) == clean


def test_values_of_secret_variables_are_hidden_wherever_they_turn_up(monkeypatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-8f3a21")
    monkeypatch.setenv("CANARY_COLOUR", "yellow-feathers")
    text = redact("failed: canary-8f3a21 is not accepted, yellow-feathers is")
    assert text == "failed: *** is not accepted, yellow-feathers is"


def test_parameters_named_like_secrets_are_hidden_whole() -> None:
    assert redact_value("storage.secret_key", "abc") == "***"
    assert redact_value("ray.token", "abc") == "***"
    assert redact_value("model.mask_token", "zero") == "zero"
    assert redact_value("storage.secret_key", "") == ""
    assert redact_value("data.uri", "s3://a:b@c") == "s3://***@c"
