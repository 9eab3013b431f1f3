"""An evaluation as JUnit XML: a case for each item, and for each figure that has a least."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from meshwright.core.display import Document, number, short


def junit_of(evaluation: Document, items: Sequence[Document]) -> bytes:
    """The XML of an evaluation with its items; figures that have a `least` are cases."""
    bound = [figure for figure in evaluation["figures"] if "least" in figure]
    missed = sum(not figure["is_met"] for figure in bound)
    name = short(evaluation["name"] or evaluation["evaluation_id"])
    suite = ElementTree.Element(
        "testsuite",
        name=name,
        tests=str(len(items) + len(bound)),
        failures=str(missed),
        errors=str(evaluation["failed"]),
    )
    for item in items:
        case = ElementTree.SubElement(suite, "testcase", classname=f"{name}.items", name=_title(item))
        if item["status"] == "failed":
            ElementTree.SubElement(case, "error", message=short(item["figures"]["error"]))
        ElementTree.SubElement(case, "system-out").text = _figures(item)
    for figure in bound:
        case = ElementTree.SubElement(suite, "testcase", classname=f"{name}.figures", name=figure["name"])
        if not figure["is_met"]:
            mean = "none" if figure["mean"] is None else number(figure["mean"])
            ElementTree.SubElement(
                case, "failure", message=f"the mean is {mean}, less than {figure['least']:g}"
            )
    return ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)


def _title(item: Document) -> str:
    request = (item.get("texts") or {}).get("input") or ""
    return f"{item['number']}: {short(request)}" if request else str(item["number"])


def _figures(item: Document) -> str:
    figures = item["figures"] or {"metrics": {}, "criteria": {}}
    values = figures["metrics"] | {
        name: judgement["value"] for name, judgement in figures["criteria"].items()
    }
    return "\n".join(
        f"{name}: {'none' if value is None else number(value)}" for name, value in values.items()
    )
