"""A model's text replaces the original if it loses and invents nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.agents.context.check import problem
from meshwright.agents.context.plan import CompressRequest, ContextPlan, plan
from meshwright.agents.context.rules import ContextRule, Rules

ULID = "01J9ZK00000000000000000001"
ORIGINAL = CompressRequest(
    sender="project-manager",
    receiver="architect-agent",
    project_id="mesh",
    task_summary="Decide how the event log of Meshwright v0.1.0 is stored: FastAPI 0.163 with SQLite, "
    "not Postgres. We use python-frontmatter and opentelemetry-sdk 1.45.2. "
    "The regression came with 8db79dc0123456.",
    workflow_state={"phase": "PLANNING"},
    constraints=["No service may be needed."],
    known_failures=["The WAL grew to 116 MB"],
    sender_memories=[
        f"It was decided at 2026-11-20T10:00:00Z ({ULID}, score: 0.93) to use WAL mode",
        "more " * 100,
    ],
    conversation_snippet=["user: keep it small"],
    sender_questions=["Which store survives a power cut?"],
)
GOOD = """METADATA:
sender: project-manager
receiver: architect-agent
project_id: mesh
priority: 5
workflow_state.phase: PLANNING
DOMAIN_CONTEXT:
1. Decide the storage of the event log of Meshwright v0.1.0: FastAPI 0.163 with SQLite. Avoid Postgres.
- Uses python-frontmatter, opentelemetry-sdk 1.45.2; the regression came with 8db79dc0123456.
CONSTRAINTS:
- No service may be needed.
KNOWN_FAILURES:
- WAL growing to 116 MB
OPEN_QUESTIONS:
- Which store survives a power cut?"""


@pytest.fixture(scope="module")
def original() -> ContextPlan:
    return plan(ORIGINAL, Rules([ContextRule(token_ceiling=50)]))


def test_a_shorter_text_of_the_same_words_is_valid(original: ContextPlan) -> None:
    assert problem(GOOD, original) is None


def test_the_original_itself_is_free_of_inventions() -> None:
    plain = ORIGINAL.model_copy(update={"sender_memories": ["SQLite is preferred."]})
    made = plan(plain, Rules([ContextRule(token_ceiling=50)]))
    assert problem(made.text, made) is None


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("METADATA:\n", "Here it is:\nMETADATA:\n", "does not begin with METADATA"),
        ("DOMAIN_CONTEXT:", "DOMAIN:", "section DOMAIN_CONTEXT is missing"),
        ("KNOWN_FAILURES:\n- WAL growing to 116 MB\n", "", "section KNOWN_FAILURES is missing"),
        ("- WAL growing to 116 MB\n", "", "section KNOWN_FAILURES is missing"),
        ("- Which store survives a power cut?", "", "section OPEN_QUESTIONS is missing"),
        ("project_id: mesh\n", "", "field project_id of METADATA is missing"),
        ("receiver: architect-agent", "receiver: qa-tester", "field receiver of METADATA is missing"),
        ("phase: PLANNING", "phase: planned", "field workflow_state.phase of METADATA is missing"),
        ("No service may be needed.", "Services unneeded.", "word for word is missing"),
        ("Which store", "plain words " * 300, "longer than what it was made from"),
    ],
)
def test_a_text_that_lost_something_is_refused(original: ContextPlan, old: str, new: str, said: str) -> None:
    assert said in (problem(GOOD.replace(old, new), original) or "")


@pytest.mark.parametrize(
    ("new", "term"),
    [
        ("MySQL", "MySQL"),
        ("SQLite 3.40", "3.40"),
        ("SQLite v0.163.1", "v0.163.1"),
        ("SQLite and 117 tables", "117"),
        ("fastapi-users", "fastapi-users"),
        ("python_frontmatter", "python_frontmatter"),
        ("celery", "celery"),
        ("sqlite3", "sqlite3"),
        ("`numpy`", "numpy"),
        ("Redis", "Redis"),
        ("SQLite. Kafka", "Kafka"),
        ("SQLite by Express", "Express"),
        ("SQLite by Make", "Make"),
        ("AWS", "AWS"),
        ("@scope/pkg", "scope/pkg"),
        ("src/app.py", "src/app.py"),
    ],
)
def test_a_name_a_version_or_a_number_that_was_not_there_is_refused(
    original: ContextPlan, new: str, term: str
) -> None:
    said = problem(GOOD.replace("SQLite", new), original)
    assert said == f"{term!r} does not stand in what it was made from"


@pytest.mark.parametrize(
    ("added", "said"),
    [
        (ULID, "an id"),
        (f"memory_id: {ULID[:5]}", "an id"),
        ("id=m", "an id"),
        ("6f1c0d3e-8a4b-4c2d-9e1f-0a1b2c3d4e5f", "an id"),
        ("score: 0.93", "a score"),
        ("decided at 2026-11-20T10:00:00Z", "a timestamp"),
        ("created_at 1763632800", "a timestamp"),
    ],
)
def test_an_id_a_score_or_a_time_of_a_memory_is_a_leak(original: ContextPlan, added: str, said: str) -> None:
    assert problem(f"{GOOD}\nRELEVANT_MEMORIES:\n- WAL mode {added}", original) == f"it holds {said}"


def test_an_id_that_the_sender_itself_put_in_words_is_none(original: ContextPlan) -> None:
    assert "8db79dc0123456" in GOOD
    assert problem(GOOD, original) is None


@given(st.text())
def test_any_text_of_a_model_is_judged_and_none_passes_by_chance(text: str) -> None:
    assert problem(text, plan(ORIGINAL, Rules())) is not None


def test_a_version_may_lose_its_v(original: ContextPlan) -> None:
    assert problem(GOOD.replace("v0.1.0", "0.1.0"), original) is None


GERMAN = (
    "Das Ereignisprotokoll wird in SQLite 3.40.1 gespeichert, weil kein weiterer Dienst laufen darf. Die "
    "Datei src/log/store.py schreibt die Zeilen, und Frau Lindqvist prüft die Sicherung jeden Tag."
)
FRENCH = (
    "Le journal des événements est stocké dans SQLite 3.40.1, car aucun autre service ne doit tourner. Le "
    "fichier src/log/store.py écrit les lignes, et Mme Lindqvist vérifie la sauvegarde chaque jour."
)
RUSSIAN = (
    "Журнал событий хранится в SQLite 3.40.1, потому что другой службы быть не должно. Файл src/log/store.py "
    "пишет строки, а Линдквист проверяет резервную копию каждый день."
)
JAPANESE = (
    "イベントログは SQLite 3.40.1 に保存される。他のサービスは使わない。"
    "src/log/store.py が行を書き込み、リンドクヴィストさんが毎日バックアップを確認する。"
)
CHINESE = (
    "事件日志保存在SQLite 3.40.1数据库中，因为不允许运行其他服务。"
    "文件src/log/store.py负责写入记录，王小明每天检查备份。"
)
KOREAN = (
    "이벤트 로그는 SQLite 3.40.1 데이터베이스에 저장됩니다. 다른 서비스를 실행할 수 없습니다. "
    "src/log/store.py 파일이 기록을 쓰고 김민수가 매일 백업을 확인합니다."
)
SHORTER = {
    GERMAN: "Ereignisprotokoll in SQLite 3.40.1 gespeichert: keine weiteren Dienste. "
    "src/log/store.py schreibt Zeilen. Frau Lindqvist prüft jeden Tag die Sicherungen.",
    FRENCH: "Stocker les événements dans SQLite 3.40.1, sans autre service. L'écriture est dans "
    "src/log/store.py. Mme Lindqvist vérifie les sauvegardes chaque jour.",
    RUSSIAN: "Журнал событий в SQLite 3.40.1 без других служб. Строки пишет src/log/store.py. Линдквист "
    "проверяет копии.",
    JAPANESE: "イベントログを SQLite 3.40.1 に保存。サービスは使わず、"
    "src/log/store.py が書き込み。リンドクヴィストが確認。",
    CHINESE: "日志保存在SQLite 3.40.1，不运行其他服务。src/log/store.py写入记录，王小明检查备份。",
    KOREAN: "이벤트 로그를 SQLite 3.40.1에 저장. 다른 서비스 없이 "
    "src/log/store.py 파일이 기록을 쓰고 김민수가 백업 확인.",
}
INVENTED = [("3.40.1", "3.41.0"), ("SQLite", "PostgreSQL"), ("store.py", "store.js"), ("SQLite", "redis")]


def judged(source: str, text: str) -> str | None:
    """Say the fault of a text, in place of a longer one that has a memory beside."""
    request = CompressRequest(
        sender="a", receiver="b", project_id="p", task_summary=source, sender_memories=["more " * 60]
    )
    made = plan(request, Rules([ContextRule(token_ceiling=50)]))
    head = "METADATA:\nsender: a\nreceiver: b\nproject_id: p\npriority: 5\nDOMAIN_CONTEXT:"
    return problem(f"{head}\n- {text}", made)


@pytest.mark.parametrize(("source", "text"), SHORTER.items(), ids=["de", "fr", "ru", "ja", "zh", "ko"])
def test_a_faithful_text_is_valid_in_any_language_and_an_invention_is_refused(source: str, text: str) -> None:
    assert judged(source, text) is None
    for old, new in INVENTED:
        assert new in (judged(source, text.replace(old, new)) or ""), new


@pytest.mark.parametrize(
    ("source", "added"),
    [
        (GERMAN, "Kafka"),
        (GERMAN, "Herr Svensson"),
        (GERMAN, "kubernetes"),
        (FRENCH, "l'outil Kafka"),
        (RUSSIAN, "Кафка"),
        (RUSSIAN, "Петров"),
        (JAPANESE, "カフカ"),
        (JAPANESE, "田中"),
        (CHINESE, "李雷"),
        (CHINESE, "王大明"),
        (KOREAN, "박지훈"),
        (KOREAN, "117"),
    ],
)
def test_a_name_that_was_not_there_is_refused_in_any_language(source: str, added: str) -> None:
    shorter = source.partition("。")[0].partition(". ")[0]
    assert judged(source, shorter) is None
    assert "does not stand in" in (judged(source, f"{shorter} {added}") or "")
