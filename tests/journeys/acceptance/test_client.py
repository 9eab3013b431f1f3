"""The examples of docs/client.md run as they stand there, against a mesh of this checkout."""

import re
import sys
from asyncio import create_subprocess_exec, subprocess
from pathlib import Path

from tests.support.running_mesh import ROOT, mesh_up

EXAMPLES = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/client.md").read_text(), flags=re.M | re.S)


async def printed_by(example: str, folder: Path) -> str:
    process = await create_subprocess_exec(sys.executable, "-c", example, cwd=folder, stdout=subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()


async def test_the_examples_of_the_page_do_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    async with mesh_up(tmp_path / "data") as running:
        printed = [
            await printed_by(
                example.replace("http://127.0.0.1:8000", running.url).replace(
                    "BlockingClient()", f"BlockingClient({running.url!r})"
                ),
                tmp_path / "elsewhere",
            )
            for example in EXAMPLES
        ]
    followed, asked, local, refused = printed
    assert followed.startswith("succeeded ") and followed.endswith("\ntask.succeeded\n")
    assert "task.accepted\n" in followed
    assert asked.strip() and asked.strip() in followed
    assert "'simple-agent'" in local
    assert refused == "There is no task 'nope' mesh tasks lists those there are\n"
