"""Law of `require_service`: a missing service skips a test with its remedy, and fails it in CI."""

from __future__ import annotations

import pytest

from tests.helpers.services import (
    REMEDIES,
    REQUIRE_SERVICES,
    require_package,
    require_service,
    succeeds,
)

Skipped = pytest.skip.Exception
Failed = pytest.fail.Exception


def test_found_service_lets_the_test_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(REQUIRE_SERVICES, "1")
    require_service("chromium", "/usr/bin/chromium")
    assert require_package("json").loads("1") == 1


@pytest.mark.parametrize("name", REMEDIES)
def test_missing_service_skips_the_test_with_its_remedy(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(REQUIRE_SERVICES, raising=False)
    with pytest.raises(Skipped) as skipped:
        require_service(name, None)
    assert REMEDIES[name] in str(skipped.value)


@pytest.mark.parametrize(("value", "raised"), [("1", Failed), ("0", Skipped)])
def test_missing_service_fails_the_test_where_services_are_required(
    value: str, raised: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(REQUIRE_SERVICES, value)
    with pytest.raises(raised, match="apt-get install prometheus"):
        require_service("prometheus", False)
    with pytest.raises(raised, match="pip install no-such-package"):
        require_package("no_such_package.inside")


def test_absent_command_does_not_succeed() -> None:
    assert not succeeds("no-such-command-anywhere")
