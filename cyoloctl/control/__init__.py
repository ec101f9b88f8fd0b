"""The control API: its wire format, its server and its client.

Nothing is imported here: the client must not pay for the server.
"""

__all__: list[str] = []
