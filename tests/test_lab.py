"""What people open, opened: JupyterLab as `make lab` starts it, its kernel, and a slider of the explorer.

It is opened on a copy of the notebooks, so that nothing is saved in this tree. The home is a bad one on purpose: a
kernel named python3 that is no longer there, and a variable that prefers it. Every wait has an end, and what was
started is ended, also after a failure.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client import BlockingKernelClient

ROOT = Path(__file__).resolve().parent.parent
TOKEN = "a-token-of-the-test"
EXPLORER = re.compile(r"^#\| default_exp tracks\.(?:\w+\.)*explorer$", re.MULTILINE)
Message = dict[str, Any]


def until(ready: Callable[[], Any], seconds: float, what: str) -> Any:
    """The first true answer of `ready`, asked ten times a second."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := ready():
            return answer
        time.sleep(0.1)
    raise AssertionError(f"{what}: not within {seconds} s")


class Lab:
    """A running JupyterLab: its notebooks, its address, and the folder where it keeps the files of its kernels."""

    def __init__(self, process: subprocess.Popen[bytes], notebooks: Path, runtime: Path, log: Path):
        self.process, self.notebooks, self.runtime, self.log = process, notebooks, runtime, log
        self.url = ""

    def answers(self) -> bool:
        """The server wrote where it listens, and listens there."""
        assert self.process.poll() is None, f"jupyter lab ended:\n{self.log.read_text()[-3000:]}"
        for found in self.runtime.glob("jpserver-*.json"):
            try:
                self.url = json.loads(found.read_text())["url"]
                return bool(self.ask("GET", "api/status"))
            except (OSError, ValueError):  # not written to its end, or not listening yet
                return False
        return False

    def ask(self, method: str, path: str, content: object = None) -> Any:
        """What the server answers; JSON where it is JSON."""
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(self.url + path, data, {"Authorization": f"token {TOKEN}"}, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read().decode()
            return json.loads(text) if text and "json" in answer.headers["Content-Type"] else text

    def close(self) -> None:
        """End the server and, with it, its kernels; the whole group if it does not listen."""
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(15)


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[Lab]:
    home, tree = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("tree")
    shutil.copy(ROOT / "settings.ini", tree)
    for folder in (".ci", "nbs"):
        shutil.copytree(
            ROOT / folder, tree / folder, symlinks=True, ignore=shutil.ignore_patterns(".ipynb_checkpoints")
        )
    env = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "PYTEST"))}
    env |= {
        "HOME": str(home),
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_PREFER_ENV_PATH": "0",
        "OMP_NUM_THREADS": "1",
    }
    for kind in ("CONFIG", "RUNTIME", "DATA"):
        env[f"JUPYTER_{kind}_DIR"] = str(home / kind)
    stale = home / "DATA" / "kernels" / "python3"
    stale.mkdir(parents=True)
    spec = {
        "argv": ["/no/such/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "stale",
        "language": "python",
    }
    (stale / "kernel.json").write_text(json.dumps(spec))
    command = [
        str(tree / ".ci" / "lab"),
        sys.executable,
        "--no-browser",
        "--allow-root",
        "--port",
        "8890",
        "--IdentityProvider.token",
        TOKEN,
    ]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=home, env=env, stdout=log, stderr=log, start_new_session=True)
    found = Lab(process, tree / "nbs", home / "RUNTIME", home / "log")
    try:
        until(found.answers, 60, "jupyter lab answers")
        yield found
    finally:
        found.close()


@pytest.fixture(scope="module")
def kernel(lab: Lab) -> Iterator[BlockingKernelClient]:
    """The kernel that the server starts for the explorer, spoken to as the browser does."""
    path = explorer()
    session = lab.ask(
        "POST", "api/sessions", {"path": path, "name": path, "type": "notebook", "kernel": {"name": "python3"}}
    )
    number, client = session["kernel"]["id"], BlockingKernelClient()
    try:
        connection = lab.runtime / f"kernel-{number}.json"
        until(connection.exists, 20, "the server starts its kernel")
        client.load_connection_file(str(connection))
        client.start_channels()
        client.wait_for_ready(timeout=60)
        yield client
    finally:
        try:
            lab.ask("DELETE", f"api/kernels/{number}")
        except OSError:  # the server is gone; its kernel may not be
            client.shutdown()
        client.stop_channels()


def explorer() -> str:
    """The notebook of the explorer, wherever it stands below nbs/."""
    names = [
        path.relative_to(ROOT / "nbs").as_posix()
        for path in (ROOT / "nbs").rglob("*.ipynb")
        if ".ipynb_checkpoints" not in path.parts
    ]
    found = [name for name in names if any(EXPLORER.search(source) for source in sources(name))]
    assert len(found) == 1, found
    return found[0]


def sources(name: str) -> list[str]:
    cells = json.loads((ROOT / "nbs" / name).read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


class Front:
    """The browser's half: widgets as their messages tell of them."""

    def __init__(self, client: BlockingKernelClient):
        self.client = client
        self.models: dict[str, Message] = {}  # state of each widget by its comm
        self.changed: list[tuple[str, str]] = []  # comm and name, in order

    def follow(self, request: str, seconds: float) -> str:
        """Read until the kernel is idle again after `request`; what was printed or shown as text."""
        end, text = time.monotonic() + seconds, []
        while (left := end - time.monotonic()) > 0:
            message = self.client.get_iopub_msg(timeout=left)
            kind, content = message["header"]["msg_type"], message["content"]
            assert kind != "error", "\n".join(content.get("traceback", []))
            if kind in ("comm_open", "comm_msg"):
                self.update(content["comm_id"], content["data"], message["buffers"])
            text += [content["text"]] if kind == "stream" else []
            mine = message["parent_header"].get("msg_id") == request
            if mine and kind == "status" and content["execution_state"] == "idle":
                return "".join(text)
        raise AssertionError(f"the kernel was busy for more than {seconds} s")

    def update(self, comm: str, data: Message, buffers: list[Any]) -> None:
        state = data.get("state", {})
        for (name, *_), buffer in zip(data.get("buffer_paths", []), buffers, strict=True):
            state[name] = bytes(buffer)
        self.models.setdefault(comm, {}).update(state)
        self.changed += [(comm, name) for name in state]

    def run(self, code: str, seconds: float) -> str:
        return self.follow(self.client.execute(code, store_history=True), seconds)

    def move(self, comm: str, value: float) -> None:
        """Drag a slider: the message that the browser sends when it is let go."""
        data = {"method": "update", "state": {"value": value}, "buffer_paths": []}
        message = self.client.session.msg("comm_msg", {"comm_id": comm, "data": data})
        self.client.shell_channel.send(message)
        self.follow(message["header"]["msg_id"], 30)


def test_lab_answers_with_the_browser_half_of_the_widgets(lab):
    page = lab.ask("GET", "lab")
    assert "@jupyter-widgets/jupyterlab-manager" in page


def test_the_kernel_of_the_environment_is_found_in_a_home_with_a_stale_one(lab):
    found = lab.ask("GET", "api/kernelspecs")
    assert found["default"] == "python3"
    spec = found["kernelspecs"]["python3"]["spec"]
    assert spec["display_name"] != "stale" and spec["language"] == "python"


def test_saving_cleans_as_nbdev_does(lab):
    """A notebook that was run is saved as `nbdev_clean` leaves it: no execution counts, no metadata of the machine."""
    name = explorer()
    before = (lab.notebooks / name).read_bytes()
    model = lab.ask("GET", f"api/contents/{name}")
    for cell in model["content"]["cells"]:
        if cell["cell_type"] == "code":
            cell |= {"execution_count": 7, "metadata": {"collapsed": True, "trusted": True}}
    saved = lab.ask("PUT", f"api/contents/{name}", {"type": "notebook", "format": "json", "content": model["content"]})
    assert saved["last_modified"] != model["last_modified"]
    assert (lab.notebooks / name).read_bytes() == before


def test_moving_a_slider_of_the_explorer_brings_a_new_picture(lab, kernel):
    front = Front(kernel)
    printed = front.run("import os, sys; print(sys.prefix, os.getcwd(), sep='\\n')", 30).split()
    assert [Path(word).resolve() for word in printed] == [
        Path(sys.prefix).resolve(),
        (lab.notebooks / explorer()).parent.resolve(),
    ]
    for code in sources(explorer()):
        front.run(code, 120)
    slider, state = next(
        (comm, state) for comm, state in front.models.items() if state.get("_model_name") == "FloatLogSliderModel"
    )
    before, front.changed = {comm: dict(state) for comm, state in front.models.items()}, []
    front.move(slider, state["base"] ** (0.3 * state["min"] + 0.7 * state["max"]))
    pictures = {
        comm
        for comm, name in front.changed
        if name == "value" and front.models[comm].get("_model_name") == "ImageModel"
    }
    assert len(pictures) == 1, "one picture follows the slider"
    (picture,) = pictures
    assert front.models[picture]["value"][:4] == before[picture]["value"][:4] == b"\x89PNG"
    assert front.models[picture]["value"] != before[picture]["value"]
