"""Known faults."""


def hunt(names: list[str], seeds: range, processes: int) -> int:
    return 0
