"""The count of collectives in a program, and the parts of a projected step time."""

import pytest

from benchmarks.speed.scaling import Chip, bytes_of, collectives, projection

PROGRAM = """
  %all-reduce = (f32[3,4]{1,0}, f32[]) all-reduce(%a, %b), replica_groups={{0,1}}
  %all-gather.2 = bf16[8,5]{1,0} all-gather(%c), dimensions={0}
  %all-gather-start = f32[16]{0} all-gather-start(%d), dimensions={0}
  %fusion = f32[7]{0} fusion(%all-reduce), kind=kLoop
"""


def test_collectives_of_a_program():
    assert bytes_of("(f32[3,4]{1,0}, s32[], u8[10])") == 48 + 4 + 10
    found = collectives(PROGRAM)
    assert found["all-reduce"] == (1, 52)
    assert found["all-gather"] == (2, 80 + 64)
    assert found["all-to-all"] == found["reduce-scatter"] == (0, 0)


def test_a_projection_is_the_sum_of_its_parts():
    chip = Chip("made", devices=4, flops=1e12, memory=1e9, links=1e8)
    found = projection(chip, flops=1e9, parameters=1000, share=0.5)
    assert found["compute"] == pytest.approx(2.0)
    assert found["update"] == pytest.approx(0.036)
    # In a ring each device sends 2 (n - 1) / n times the bytes of the gradients.
    assert found["exchange"] == pytest.approx(0.06)
    assert found["step"] == pytest.approx(2.096)
