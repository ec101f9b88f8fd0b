r"""Forwarded commands are numbered from 1 after each start: SUCCESS for another command.

pysyncobj 0.3.17.

Expected: a callback with SUCCESS means that this command was applied.
Observed: b forwards its first command, restarts, and forwards another, which is lost with the connection.
    The leader's answer to the first one carries request_id 1, as the second does: b waits for the first one's
    log entry and reports SUCCESS for the second.
Cause: syncobj.py, SyncObj.__init__, `self.__commandsLocalCounter = 0`.
Change: begin at a random number.

--- a/pysyncobj/syncobj.py
+++ b/pysyncobj/syncobj.py
@@ -268,7 +268,7 @@
         self.__newAppendEntriesTime = 0

         self.__commandsWaitingCommit = collections.defaultdict(list)  # logID => [(termID, callback), ...]
-        self.__commandsLocalCounter = 0
+        self.__commandsLocalCounter = random.getrandbits(62)
         self.__commandsWaitingReply = {}  # commandLocalCounter => callback

         self.__properies = set()
"""

from harness import Cluster, temporary_directory, verdict

cluster = Cluster("abc", temporary_directory())
cluster.elect("a")
cluster.write("a", "before")
cluster.run(0.3)
cluster.propose("b", "first")
cluster.deliver("b", "a")
print("a has b's first command; b restarts")
cluster.restart("b")
second = cluster.propose("b", "second")
cluster.period("a")
for _ in range(4):
    cluster.deliver("a", "b", tick=True)
    cluster.now += 0.05
    cluster.tick("a")
print("b's second command is lost with the connection")
cluster.reconnect("a", "b")
cluster.run(1.0)
print("b's caller was told ok:", second.ok, "; a:", cluster.state("a"))
verdict(
    second.ok and "second" not in cluster.state("a"),
    "SUCCESS for a command that no node ever applied",
    "nobody was told what did not happen",
)
