"""Find the arrays of an optimizer in a state that has other wrappers around it than before."""

from collections.abc import Collection

from precond.checkpoints.by_path import Record

__all__ = ["in_wrappers"]


def in_wrappers(record: Record, prefixes: Collection[str]) -> Record:
    """Return a record with the names that its places have in a new state, whose wrappers may be other ones.

    What divides parameters into blocks is found in both states, and its place tells what was and what is around it.
    What the old wrappers kept is left out. If the two states do not divide parameters at as many places, or if
    different things were done at different places, nothing is renamed.

    Args:
      record: the record of the old state.
      prefixes: the names of the states of the new state that divide parameters into blocks, as `stacks_in` has them.

    Examples:
      >>> old = Record({"kernel": {"inner_opt_state/0/block_ids/2x2": 1, "acc_grads": 2}}, {})
      >>> in_wrappers(old, ["1/0/"]).parameters["kernel"]
      {'1/0/block_ids/2x2': 1}
    """
    places = {place for of in record.parameters.values() for place in of if "block_ids/" in place}
    old, new = sorted({place.rpartition("block_ids/")[0] for place in places}), sorted(prefixes)
    heads = {_heads(*pair) for pair in zip(old, new, strict=False)}
    if old == new or len(old) != len(new) or len(heads) != 1:
        return record
    was, now = heads.pop()

    def moved(places: dict[str, object]) -> dict[str, object]:
        return {now + name.removeprefix(was): x for name, x in places.items() if name.startswith(was)}

    return Record({path: moved(of) for path, of in record.parameters.items()}, moved(record.others))


def _heads(old: str, new: str) -> tuple[str, str]:
    """Return two names without the levels at their ends that are the same."""
    before, after = old.split("/")[:-1], new.split("/")[:-1]
    while before and after and before[-1] == after[-1]:
        before, after = before[:-1], after[:-1]
    return "".join(f"{part}/" for part in before), "".join(f"{part}/" for part in after)
