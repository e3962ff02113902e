"""Files that are sent once and asked about by name, with OpenAI's own client."""

import io
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.unit.serve.conftest import EXAMPLES, KEY, Running, asks

from minicpmv.errors import MediaError, MediaLimitError
from minicpmv.serve.errors import ProblemError
from minicpmv.serve.uploads import KEPT_S, Uploads


def named(identity: Any, **options: Any) -> dict[str, Any]:
    return {"type": "file", "file": {"file_id": identity}, **options}


def ask(client: openai.OpenAI, *parts: Any) -> Any:
    return client.chat.completions.create(model="tiny", messages=asks(*parts), max_tokens=24)


def test_a_picture_is_asked_about_twice(client: openai.OpenAI) -> None:
    with (EXAMPLES / "sign.png").open("rb") as file:
        sent = client.files.create(file=file, purpose="user_data")
    assert (sent.filename, sent.purpose, sent.status) == ("sign.png", "user_data", "processed")
    assert sent.bytes == (EXAMPLES / "sign.png").stat().st_size
    for _ in range(2):
        answer = ask(client, named(sent.id), "What is written in the picture?")
        assert answer.choices[0].message.content == "Pasta $7.50"
    assert client.files.content(sent.id).read() == (EXAMPLES / "sign.png").read_bytes()
    assert sent.id in [file.id for file in client.files.list()]
    assert client.files.retrieve(sent.id) == sent
    assert client.files.delete(sent.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(sent.id)
    with pytest.raises(openai.NotFoundError, match="no file"):
        ask(client, named(sent.id), "And now?")


def test_clips_and_documents_are_told_by_their_contents(client: openai.OpenAI) -> None:
    clip = client.files.create(file=("scan.pdf", (EXAMPLES / "clip.mp4").read_bytes()), purpose="user_data")
    answer = ask(client, named(clip.id, fps=10, packing=1, max_frames=3), "Which colour appears first?")
    assert answer.usage.prompt_tokens_details.visual_tokens == 3 * 64
    note = client.files.create(file=EXAMPLES / "note.pdf", purpose="user_data")
    assert ask(client, named(note.id), "What is written?").usage.prompt_tokens_details.visual_tokens >= 64
    words = {"type": "input_text", "text": "What is written?"}
    content: list[Any] = [{"type": "input_file", "file_id": note.id}, words]
    response = client.responses.create(model="tiny", input=[{"role": "user", "content": content}], max_output_tokens=24)
    assert response.usage is not None
    assert response.usage.input_tokens > 64


def test_a_file_that_is_named_often_is_read_once(
    client: openai.OpenAI, server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = client.files.create(file=EXAMPLES / "sign.png", purpose="user_data")
    reads: list[str] = []
    read = server.service.uploads.read
    monkeypatch.setattr(server.service.uploads, "read", lambda upload: reads.append(upload.id) or read(upload))
    assert ask(client, *[named(note.id)] * 3, "What is written?").usage.prompt_tokens_details.visual_tokens == 192
    assert reads == [note.id]
    with pytest.raises(openai.BadRequestError, match="names 500 uploaded files"):
        ask(client, *[named(note.id)] * 500, "What is written?")
    assert reads == [note.id]


@pytest.mark.parametrize("content", [b"", b"just words", b"MZ\x00\x00" * 100])
def test_what_is_no_medium_is_refused_and_not_kept(client: openai.OpenAI, server: Running, content: bytes) -> None:
    before = [file.id for file in server.service.uploads.all()]
    with pytest.raises(openai.BadRequestError):
        client.files.create(file=("a.png", content), purpose="user_data")
    assert [file.id for file in server.service.uploads.all()] == before


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b""),
        ("multipart/form-data; boundary=x", b"--x\r\nnonsense"),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n--x--\r\n'),
    ],
)
def test_bodies_that_are_no_form_are_told_so(server: Running, kind: str, body: bytes) -> None:
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": kind}
    request = urllib.request.Request(f"{server.address}/v1/files", data=body, headers=headers, method="POST")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=30)
    assert caught.value.code == 400
    assert json.loads(caught.value.read())["error"]["message"]
    caught.value.close()


def test_files_are_nobodys_without_the_key(server: Running) -> None:
    stranger = openai.OpenAI(base_url=f"{server.address}/v1", api_key="guess", max_retries=0)
    for call in (stranger.files.list, lambda: stranger.files.retrieve("file-1"), lambda: stranger.files.delete("a")):
        with pytest.raises(openai.AuthenticationError):
            call()
    stranger.close()


@pytest.mark.parametrize("identity", ["..", "../../etc/passwd", "file-0", "x" * 5000, "", None, 7, {"a": 1}])
def test_an_id_is_no_path(client: openai.OpenAI, identity: Any) -> None:
    with pytest.raises(openai.NotFoundError):
        ask(client, named(identity), "What?")


class TestUploads:
    def test_keeps_no_more_than_it_may(self) -> None:
        picture = (EXAMPLES / "sign.png").read_bytes()
        uploads = Uploads(most_bytes=2 * len(picture))
        first, _second = (uploads.take(io.BytesIO(picture), "a.png", "x") for _ in range(2))
        with pytest.raises(MediaLimitError, match="no room"):
            uploads.take(io.BytesIO(picture), "a.png", "x")
        assert len(list(first.path.parent.iterdir())) == 2
        uploads.delete(first.id)
        uploads.take(io.BytesIO(picture), "a.png", "x")
        folder = first.path.parent
        uploads.close()
        assert not folder.exists()
        assert uploads.all() == []

    def test_forgets_after_a_day(self, monkeypatch: pytest.MonkeyPatch) -> None:
        uploads = Uploads(most_bytes=10**9)
        kept = uploads.take(io.BytesIO((EXAMPLES / "sign.png").read_bytes()), "../../a/" + "n" * 999, "x")
        assert kept.path.parent.name.startswith("minicpmv-uploads-")
        assert len(kept.name) <= 255
        monkeypatch.setattr("minicpmv.serve.uploads.time.time", lambda: kept.created + KEPT_S + 1)
        assert uploads.all() == []
        assert not kept.path.exists()
        with pytest.raises(ProblemError, match="no file"):
            uploads.get(kept.id)
        uploads.close()

    def test_leaves_nothing_of_what_it_refuses(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("minicpmv.serve.uploads.tempfile.mkdtemp", lambda prefix: str(tmp_path))
        with pytest.raises(MediaError):
            Uploads(most_bytes=10**9).take(io.BytesIO(b"no picture"), "a", "x")
        assert list(tmp_path.iterdir()) == []
