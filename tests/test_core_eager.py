"""A training does without PyTorch's compiler, and whoever asks for the compiler gets it."""

from __future__ import annotations

import subprocess
import sys

import pytest

START = """
import sys
import torch
from thesis_surrogates.core.eager import without_compiler

def trained():
    torch.manual_seed(0)
    layer = torch.nn.Linear(2, 1)
    optimizer = OPTIMIZER(layer.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        layer(torch.ones(3, 2)).sum().backward()
        optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    return layer.weight.tolist()

OPTIMIZER = torch.optim.AdamW
"""


def say(program):
    """What a fresh process prints."""
    done = subprocess.run([sys.executable, "-c", START + program], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_numbers_are_the_same_with_and_without_and_nothing_remains():
    program = """
from thesis_surrogates.core.adabelief import AdaBelief
from thesis_surrogates.core.soap import Soap

kinds = [torch.optim.AdamW, torch.optim.RAdam, torch.optim.NAdam, torch.optim.SGD, Soap, AdaBelief]
light = []
with without_compiler():
    for OPTIMIZER in kinds:
        light.append(trained())
print("torch._dynamo" in sys.modules, hasattr(vars(torch), "_dynamo"))
kept = [getattr(vars(torch.optim.Optimizer)[name], "__wrapped__", None) for name in ("zero_grad", "state_dict")]
print(any(hasattr(function, "__dynamo_disable") for function in kept))
for OPTIMIZER, weights in zip(kinds, light):
    assert trained() == weights
print("torch._dynamo" in sys.modules)
"""
    assert say(program) == ["False", "False", "False", "True"]


@pytest.mark.parametrize(
    "use",
    [
        "torch._dynamo.config.cache_size_limit",
        "__import__('torch._dynamo.config')",
        "torch.compile(lambda x: x + 1, backend='eager')(torch.ones(2))",
    ],
)
def test_whoever_asks_for_the_compiler_gets_it(use):
    program = f"""
with without_compiler():
    before = trained()
    {use}
    assert trained() == before
print(hasattr(torch._dynamo, "reset"), type(sys.modules["torch._dynamo"]).__name__)
"""
    assert say(program) == ["True", "module"]


def test_a_compiler_that_is_loaded_stays():
    assert say("""
import torch._dynamo
real = torch._dynamo
with without_compiler():
    assert sys.modules["torch._dynamo"] is real
print(sys.modules["torch._dynamo"] is real)
""") == ["True"]
