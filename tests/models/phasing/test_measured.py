"""The measured scan: the network's object beside plain runs."""

import re

from braggd.config import Config, PhasingConfig
from braggd_models.phasing import study
from braggd_models.phasing.measured import compared

SHORT = "60*HIO + 30*RAAR + 20*ER"


def test_all_objects_are_set_beside_the_final_one(monkeypatch):
    monkeypatch.setattr(study, "ONE_RUN", SHORT)
    phasing = PhasingConfig(
        shape=(48, 48, 48), recipe=SHORT, quick=SHORT, seeded=SHORT, refine="40*RAAR + 20*ER", prolong="", starts=2
    )
    text = compared("example", Config(phasing=phasing), runs=2)
    found = re.findall(r"^\| (\S.*?) \| (-|\d\S*) \| (\d\S*) \|$", text, re.MULTILINE)
    rows = {name: (llk, float(with_final)) for name, llk, with_final in found}
    assert list(rows) == ["network", "dl", "dl + 300 ER", "run 1", "run 2"]
    assert rows["network"][0] == "-"
    assert float(rows["dl + 300 ER"][0]) < float(rows["dl"][0])
    assert rows["dl + 300 ER"][1] > 0.7
