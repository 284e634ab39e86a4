"""Errors for users: one paragraph, whatever is quoted in it."""

from em_tasks.plugins.errors import UserError


def test_a_word_of_thousands_of_characters_is_shown_by_its_two_ends() -> None:
    message = str(UserError(f"There is no field {'x' * 5000}. Mend it."))
    assert len(message) < 300
    assert message.startswith("There is no field xxx")
    assert "(5001 characters) Mend it." in message


def test_paths_and_hashes_stay_whole() -> None:
    path = "/".join(["folder" * 8] * 15)
    assert path in str(UserError(f"There is nothing at {path} (SHA-256 {'0' * 64})."))
