"""What other processes get of a pipeline."""

import pickle
from pathlib import Path

import toy
from dataengine.engine.pipeline import Pipeline, Step


class Pinned(toy.MeasureLength):
    """Its weights are a file."""

    @property
    def revision(self) -> str:
        return (self.journal / "weights").read_text()


def test_a_process_without_a_stages_weights_knows_its_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("v1")
    plain = toy.pipeline(tmp_path)
    pipeline = Pipeline(
        source_steps=(Step(Pinned(tmp_path), plain.source_steps[0].resources),),
        cut=plain.cut,
        clip_steps=plain.clip_steps,
        finish=plain.finish,
        verdict=plain.verdict,
    )
    sent = pickle.dumps(pipeline)
    (tmp_path / "weights").unlink()
    assert pickle.loads(sent).fingerprints == pipeline.fingerprints
    assert pipeline.fingerprints["length"] != plain.fingerprints["length"]
