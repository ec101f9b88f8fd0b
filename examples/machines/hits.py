"""The tutorial: hits of pages, counted by a cluster."""

from cyoloctl import ReadTable, Refuse, StateMachine, Table, operation, query


class Hits(StateMachine):
    NAME = "hits"

    @operation
    def add(self, table: Table, page: str, by: int = 1) -> int:
        if not page or not 1 <= by <= 1000:
            raise Refuse("name a page, and count 1 to 1000")
        table.set(page, table.get(page, 0) + by)
        return int(table.get(page))

    @query
    def of(self, table: ReadTable, page: str) -> int:
        return int(table.get(page, 0)) if page else 0
