"""What Ray is asked for; `tests/cli/test_embed_manifest.py` and `test_cluster.py` have it work."""

from __future__ import annotations

import pytest

from gemoclap_sb.inference.ray_pool import Pool, choose_pool


def nodes(*resources: tuple[int, int]) -> list[dict]:
    """Machines of so many cores and GPUs, and one that has died."""
    found = [{"Alive": True, "Resources": {"CPU": float(c), "GPU": float(g)}} for c, g in resources]
    return [*found, {"Alive": False, "Resources": {"CPU": 1.0}}]


@pytest.mark.parametrize(
    ("machines", "device", "actors", "pool"),
    [
        ([(2, 0)], None, None, Pool(1, 2)),
        ([(2, 0)], None, 2, Pool(2, 1)),
        ([(6, 0)], None, None, Pool(2, 3)),
        ([(64, 0)], None, None, Pool(16, 4)),
        ([(64, 0)], None, 1, Pool(1, 64)),
        # All must find a place on the smallest.
        ([(64, 0), (8, 0)], None, None, Pool(18, 4)),
        ([(64, 0), (8, 0)], None, 2, Pool(2, 8)),
        ([(16, 2), (64, 4)], None, None, Pool(6, 8, gpus=1)),
        ([(16, 2)], "cuda", 1, Pool(1, 8, gpus=1)),
        ([(16, 2)], "cpu", None, Pool(4, 4)),
        # A machine that only coordinates.
        ([(0, 0), (4, 0)], None, None, Pool(1, 4)),
    ],
)
def test_actors_share_cores_and_have_a_gpu_each(machines, device, actors, pool):
    assert choose_pool(nodes(*machines), device, actors) == pool


@pytest.mark.parametrize(
    ("machines", "device", "actors", "told"),
    [
        ([(2, 0)], None, 3, "actors: expected 1 to 2, as there are cores, found 3"),
        ([(8, 2)], None, 3, "actors: expected 1 to 2, as there are GPUs, found 3"),
        ([(8, 0)], "cuda", None, "device: expected GPUs"),
    ],
)
def test_more_than_there_is_is_refused(machines, device, actors, told):
    with pytest.raises(ValueError, match=told):
        choose_pool(nodes(*machines), device, actors)


def test_threads_of_an_actor_can_be_asked_for():
    assert choose_pool(nodes((8, 2), (3, 0)), "cpu", None, 1) == Pool(11, 1)
    assert choose_pool(nodes((8, 0)), "cpu", 2, 1) == Pool(2, 1)
    assert choose_pool(nodes((8, 0)), "cpu", None, 3) == Pool(2, 3)
    with pytest.raises(ValueError, match="actors: expected 1 to 2"):
        choose_pool(nodes((8, 0)), "cpu", 3, 3)
