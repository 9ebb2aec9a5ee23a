"""The planes of a CT scan as the browser draws them: where things lie, how large they are, what is handed back.

The component stands alone on a page of the app, under its content security policy and with its routes.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pages.components import slide_viewer
from pages.components.ct_viewer import COLOURS, SCRIPTS, middle_of
from renalcore.ct.measure import measure
from renalcore.io.volume import Volume
from tests.browser.conftest import admit, expect, shoot
from tests.browser.records import user_of
from tests.ct_analysed import Study, analysed, drawn
from tests.running_app import RunningApp

MOUNT = """async ([script, style, data]) => {
    document.body.innerHTML = "<div id='place'></div>";
    const root = document.getElementById("place").attachShadow({ mode: "open" });
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(style);
    root.adoptedStyleSheets = [sheet];
    const { default: mount } = await import(URL.createObjectURL(new Blob([script], { type: "text/javascript" })));
    window.sent = [];
    window.update = changes => {
        data = { ...data, ...changes };
        mount({ data, parentElement: root, setTriggerValue: (_, { nonce, events }) => {
            window.sent.push(...events);
            setTimeout(() => window.update({ acknowledged: { [nonce]: events.at(-1).n } }));
        } });
    };
    window.update({});
}"""
"""As Streamlit mounts it; every event is answered."""

EXTENT = """async ([plane, colour]) => {
    await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
    const canvas = document.getElementById("place").shadowRoot.querySelector(`[data-plane=${plane}] canvas`);
    const { width, height } = canvas;
    const { data } = canvas.getContext("2d").getImageData(0, 0, width - 16, height);
    const wanted = [1, 3, 5].map(at => parseInt(colour.slice(at, at + 2), 16));
    let [left, top, right, bottom] = [width, height, 0, 0];
    for (let i = 0; i < data.length; i += 4) {
        if (wanted.some((value, at) => Math.abs(value - data[i + at]) > 3)) continue;
        const [x, y] = [(i / 4) % (width - 16), Math.floor(i / 4 / (width - 16))];
        [left, top, right, bottom] = [Math.min(left, x), Math.min(top, y), Math.max(right, x), Math.max(bottom, y)];
    }
    return [left, top, right + 1, bottom + 1, width - 16, height];
}"""
"""Where a colour is in a plane, in px of the screen, and the size of the picture without its strip."""

CHANGED = """async plane => {
    await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
    const canvas = document.getElementById("place").shadowRoot.querySelector(`[data-plane=${plane}] canvas`);
    const { width, height } = canvas;
    const { data } = canvas.getContext("2d").getImageData(0, 0, width - 16, height);
    const before = (window.seen ??= {})[plane] ?? data;
    window.seen[plane] = data;
    const [columns, rows] = [new Array(width - 16).fill(0), new Array(height).fill(0)];
    for (let i = 0; i < data.length; i += 4) {
        if (![0, 1, 2].some(at => Math.abs(data[i + at] - before[i + at]) > 8)) continue;
        columns[(i / 4) % (width - 16)] += 1;
        rows[Math.floor(i / 4 / (width - 16))] += 1;
    }
    return [columns, rows];
}"""
"""How many px of each column and of each row of a plane are others than when this was asked last."""


@dataclass
class Shown:
    """A viewer on a page."""

    page: Any
    study: Study

    @property
    def root(self) -> Any:
        return self.page.locator(".ct")

    def plane(self, name: str) -> Any:
        return self.page.locator(f".plane[data-plane={name}]")

    def extent(self, plane: str, label: str) -> list[float]:
        extent: list[float] = self.page.evaluate(EXTENT, [plane, COLOURS[label]])
        return extent

    def sent(self) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = self.page.evaluate("() => window.sent")
        return events


def shown(page: Any, app: RunningApp, study: Study) -> Shown:
    """A study in the viewer, its labels drawn without seeing through them."""
    admit(page, app, app.person())
    page.goto(f"{app.url}/health")
    measures = measure(study.labels, study.volume.affine, hu=study.volume.hu)
    address = f"/ct/{study.scan.id}"
    data = {
        "scan": study.scan.id, "image": f"{address}/image.nii.gz", "version": "1", "go_to": None, "asked": 0,
        "labels": f"{address}/labels.nii.gz?analysis={study.analysis.id}", "colours": COLOURS, "acknowledged": {},
        "middle": middle_of(measures),
        "lesions": [{"number": one.number, "label": one.label, "voxel": one.voxel} for one in measures.lesions],
    }  # fmt: skip
    style = (SCRIPTS[-1].parent / "viewer.css").read_text()
    page.evaluate(MOUNT, [slide_viewer.script(*SCRIPTS), style, data])
    viewer = Shown(page, study)
    page.locator(".ct[data-shown][data-version='1']").wait_for()
    for label in COLOURS:
        page.get_by_label(f"Opacity: {label}").fill("1")
    page.get_by_role("button", name="Cross-hair").click()
    return viewer


def a_study(app: RunningApp, monkeypatch: pytest.MonkeyPatch, number: str, volume: Volume, labels: np.ndarray) -> Study:
    monkeypatch.setenv("RENAL_DATA", str(app.data))
    user = user_of(app, app.person())
    with app.database() as session:
        return analysed(session, user, [(volume, labels)], accession=f"V-{number}", identifier=f"V-{number}")


def lain_down() -> tuple[Volume, np.ndarray]:
    """The same body, whose file counts sagittal slices from the left, rows to the head and columns to the back."""
    volume, labels = drawn()
    affine = volume.affine.copy()
    to_left, to_back, to_head, origin = affine.T
    width = volume.shape[2]
    turned = np.column_stack((to_back, to_head, -to_left, origin + to_left * (width - 1)))
    return Volume(volume.hu.transpose(2, 0, 1)[::-1].copy(), turned), labels.transpose(2, 0, 1)[::-1].copy()


def test_a_ball_is_round_and_left_is_at_the_right_however_the_file_counts(
    page: Any, web_app: RunningApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    extents: dict[str, list[float]] = {}
    for number, scan in (("axial", drawn()), ("sagittal", lain_down())):
        viewer = shown(page, web_app, a_study(web_app, monkeypatch, number, *scan))
        voxel = [int(index) for index in np.argwhere(viewer.study.labels == 2).mean(axis=0).round()]
        page.evaluate("voxel => window.update({ go_to: voxel })", voxel)
        expect(viewer.root).to_have_attribute("data-voxel", " ".join(map(str, voxel)))
        expect(viewer.root).to_have_attribute("data-hu", "1500")
        at = dict(zip("xyz", viewer.study.volume.affine[:3] @ [*voxel[::-1], 1.0], strict=True))
        words = "  ".join(f"{axis} {mm:.1f}".replace("-", "−") for axis, mm in at.items())
        assert viewer.page.locator(".here").inner_text() == f"Cross-hair {words} mm (LPS) · 1500 HU"
        page.keyboard.press("Escape")
        expect(viewer.root).to_have_attribute("data-selected", "")
        for plane, (across_mm, down_mm) in {"axial": (320, 240), "coronal": (320, 300), "sagittal": (240, 300)}.items():
            left, top, right, bottom, wide, high = extents.setdefault(plane, viewer.extent(plane, "tumour"))
            assert extents[plane] == pytest.approx(viewer.extent(plane, "tumour"), abs=1.01)
            px_per_mm = min(wide / across_mm, high / down_mm)
            assert (right - left) / px_per_mm == pytest.approx(28, abs=4.5)
            assert (bottom - top) / px_per_mm == pytest.approx(28, abs=4.5)
            # 74 mm to the left, 30 mm to the back, at the height of the middle; the middle lies between two voxels.
            x_mm, y_mm = ((left + right - wide) / 2 / px_per_mm, (top + bottom - high) / 2 / px_per_mm)
            wanted = {"axial": (74, 30), "coronal": (74, 0), "sagittal": (30, 0)}[plane]
            assert (x_mm, y_mm) == pytest.approx(wanted, abs=3.0)
    assert viewer.plane("coronal").locator("b").all_inner_texts() == ["R", "L", "H", "F"]
    assert viewer.plane("sagittal").locator("b").all_inner_texts() == ["A", "P", "H", "F"]


def test_a_scan_without_lesions_opens_at_the_middle_of_its_kidneys(
    page: Any, web_app: RunningApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume, labels = lain_down()
    labels[labels > 1] = 1
    labels[len(labels) // 2 :] = 0  # its slices are counted from the left: the left kidney stays
    viewer = shown(page, web_app, a_study(web_app, monkeypatch, "lone", volume, labels))
    at = [int(index) for index in viewer.root.get_attribute("data-voxel").split()]
    assert at == pytest.approx(np.argwhere(labels).mean(axis=0), abs=0.6)


def test_slices_window_labels_and_lesions_follow_the_hand(
    page: Any, web_app: RunningApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer = shown(page, web_app, a_study(web_app, monkeypatch, "hand", *drawn()))
    axial = viewer.plane("axial")
    shoot(page, "ct-viewer")
    first = measure(viewer.study.labels, viewer.study.volume.affine).lesions[0].voxel[0]
    expect(axial).to_have_attribute("data-slice", str(first + 1))  # it opens at the first lesion
    left, top, right, bottom, *_ = viewer.extent("axial", "tumour")
    axial.locator("canvas").click(position={"x": (left + right) / 2, "y": (top + bottom) / 2})
    expect(viewer.root).to_have_attribute("data-selected", "1")
    page.wait_for_function("() => window.sent.length === 1")
    (event,) = viewer.sent()
    assert (event["action"], event["lesion"], viewer.study.labels[tuple(event["voxel"])]) == ("select", 1, 2)
    page.keyboard.press("Escape")
    page.wait_for_function("() => window.sent.length === 2")
    assert viewer.sent()[1]["action"] == "clear"
    page.keyboard.press("p")  # the last lesion: the cyst
    expect(viewer.root).to_have_attribute("data-selected", "2")
    page.wait_for_function("() => window.sent.length === 3")
    assert viewer.study.labels[tuple(viewer.sent()[2]["voxel"])] == 3

    slice_before = int(axial.get_attribute("data-slice"))
    axial.hover()
    page.mouse.wheel(0, 100)  # towards the feet
    expect(axial).to_have_attribute("data-slice", str(slice_before - 1))
    page.keyboard.press("PageUp")
    expect(axial).to_have_attribute("data-slice", str(slice_before + 9))
    expect(page.locator("[aria-live=polite]")).to_contain_text(f"Axial, slice {slice_before + 9} of 60")
    expect(axial.get_by_role("img")).to_have_accessible_name(f"Axial, slice {slice_before + 9} of 60")
    page.get_by_role("button", name="Lung").click()
    expect(viewer.root).to_have_attribute("data-window", "1500 -600")
    page.keyboard.press("+")
    letter = Image.open(io.BytesIO(axial.get_by_text("L", exact=True).screenshot())).convert("L")
    assert np.count_nonzero(np.asarray(letter) < 40) > 10, "an edge of its own also on bright tissue"
    page.keyboard.press("0")
    box = axial.bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down(button="right")
    page.mouse.move(box["x"] + 120, box["y"] + 110)
    page.mouse.up(button="right")
    expect(viewer.root).to_have_attribute("data-window", "1575 -562")  # 20 and 10 px of 1500 / 400 HU
    page.keyboard.press("n")
    page.get_by_label("Opacity: kidney").fill("0.3")
    assert viewer.extent("axial", "kidney")[2] == 1, "its colour is mixed with what lies under it"
    assert viewer.extent("axial", "tumour")[2] > 1
    page.get_by_label("Opacity: kidney").fill("1")
    page.get_by_role("button", name="Tumour").press("Enter")
    expect(page.get_by_role("button", name="Tumour", pressed=False)).to_be_focused()
    expect(viewer.root).to_have_attribute("data-selected", "1")
    assert viewer.extent("axial", "tumour")[2] == 1, "nowhere"
    assert viewer.extent("axial", "kidney")[2] > 100
    page.keyboard.press("o")
    assert viewer.extent("axial", "kidney")[2] == 1
    page.keyboard.press("2")
    expect(axial).to_be_hidden()
    expect(viewer.plane("coronal")).to_be_visible()


def test_of_lesions_beyond_those_that_have_a_number_the_chosen_one_alone_is_outlined(
    page: Any, web_app: RunningApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer = shown(page, web_app, a_study(web_app, monkeypatch, "beyond", *drawn()))
    page.evaluate("() => window.update({ lesions: [], version: '2' })")  # as where 62 others have the numbers
    page.locator(".ct[data-version='2']").wait_for()
    labels = viewer.study.labels
    both = next(at for at, plane in enumerate(labels) if {2, 3} <= set(np.unique(plane)))
    outlined = []
    for label in (2, 3):  # of the patient's left kidney, then of the right one
        row, column = np.argwhere(labels[both] == label)[0].tolist()
        page.evaluate("voxel => window.update({ go_to: voxel })", [both, row, column])
        expect(viewer.root).to_have_attribute("data-voxel", f"{both} {row} {column}")
        expect(viewer.root).to_have_attribute("data-selected", "unnumbered")
        outlined.append(page.evaluate(EXTENT, ["axial", "#ffffff"]))
    (left, *_), (_, _, right, *_) = outlined
    assert 1 < right < left, "the outline went from the tumour to the cyst, which is farther left in the picture"


def test_a_device_with_too_little_memory_shows_every_second_slice_and_says_so(
    page: Any, web_app: RunningApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume, labels = drawn()  # 60 x 60 x 80 = 288,000 voxels
    page.add_init_script("""window.Int16Array = new Proxy(Int16Array, { construct(target, given) {
        if (given[0] > 150000) throw new RangeError("Array buffer allocation failed");
        return Reflect.construct(target, given);
    } });""")
    viewer = shown(page, web_app, a_study(web_app, monkeypatch, "memory", volume, labels))
    expect(viewer.root).to_have_attribute("data-step", "2")
    expect(page.get_by_text("Every 2nd slice is shown")).to_be_visible()
    voxel = [int(index) for index in np.argwhere(labels == 2).mean(axis=0).round()]
    page.evaluate("voxel => window.update({ go_to: voxel })", [30, *voxel[1:]])
    expect(viewer.plane("axial").locator(".said")).to_have_text("Axial 31 / 60")
    page.keyboard.press("Escape")
    expect(viewer.root).to_have_attribute("data-selected", "")
    left, top, right, bottom, wide, high = viewer.extent("coronal", "tumour")
    px_per_mm = min(wide / 320, high / 300)
    assert (right - left) / px_per_mm == pytest.approx(28, abs=4.5)
    assert (bottom - top) / px_per_mm == pytest.approx(28, abs=10.5), "slices of 10 mm"


def test_a_click_in_one_plane_takes_the_others_and_the_lines_of_the_cross_hair_there(
    page: Any, web_app: RunningApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer = shown(page, web_app, a_study(web_app, monkeypatch, "cross", *drawn()))
    planes = {name: viewer.plane(name) for name in ("axial", "coronal", "sagittal")}
    cyst, tumour = (np.argwhere(viewer.study.labels == label).mean(axis=0) for label in (3, 2))
    page.evaluate("voxel => window.update({ go_to: voxel })", [int(index) for index in cyst.round()])
    expect(viewer.root).to_have_attribute("data-hu", "0")
    before = [int(plane.get_attribute("data-slice")) for plane in planes.values()]
    assert before == pytest.approx(cyst + 1, abs=1)

    left, top, right, bottom, *_ = viewer.extent("coronal", "tumour")
    x, y = (left + right) / 2, (top + bottom) / 2
    planes["coronal"].locator("canvas").click(position={"x": x, "y": y})
    expect(viewer.root).to_have_attribute("data-hu", "1500")
    slices = [int(plane.get_attribute("data-slice")) for plane in planes.values()]
    assert slices == [int(index) + 1 for index in viewer.root.get_attribute("data-voxel").split()]
    assert slices == pytest.approx(tumour + 1, abs=1), "axial and sagittal are where the tumour was clicked"
    assert slices[1] == before[1], "the plane that was clicked stays"

    page.keyboard.press("Escape")
    expect(viewer.root).to_have_attribute("data-selected", "")
    extents = {name: viewer.extent(name, "tumour") for name in planes}
    for name in planes:
        page.evaluate(CHANGED, name)
    page.get_by_role("button", name="Cross-hair").click()
    for name, (left, top, right, bottom, wide, high) in extents.items():
        columns, rows = (np.array(changed) for changed in page.evaluate(CHANGED, name))
        down, across = int(columns.argmax()), int(rows.argmax())
        assert columns[down] > 0.8 * (high - 28), "one line from top to bottom but for its gap"
        assert rows[across] > 0.8 * (wide - 28), "one from side to side"
        assert (down, across) == pytest.approx(((left + right) / 2, (top + bottom) / 2), abs=8), "about a voxel"

    for name, turned in (("coronal", [0, 1, 0]), ("sagittal", [0, 0, 1])):  # to the back, to the left
        planes[name].hover()
        page.mouse.wheel(0, 100)
        for plane, number, by in zip(planes.values(), slices, turned, strict=True):
            expect(plane).to_have_attribute("data-slice", str(number + by))
        page.mouse.wheel(0, -100)
        for plane, number in zip(planes.values(), slices, strict=True):
            expect(plane).to_have_attribute("data-slice", str(number))
