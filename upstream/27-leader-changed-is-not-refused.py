r"""LEADER_CHANGED says "without command commit", and the command is applied.

pysyncobj 0.3.17.

Expected: config.py: "Similar to NOT_LEADER - leader has changed without command commit".  A caller may send
    the command again.
Observed: the forwarding node does not know whether the old leader has replicated the command.  Here it did,
    the next leader commits it, and the caller who repeats it has it twice.
Cause: syncobj.py, SyncObj.__onLeaderChanged.
Change: tell what is known, UNKNOWN_OUTCOME; or correct the comment in config.py.

--- a/pysyncobj/syncobj.py
+++ b/pysyncobj/syncobj.py
@@ -1245,7 +1245,7 @@

     def __onLeaderChanged(self):
         for id in sorted(self.__commandsWaitingReply):
-            self.__commandsWaitingReply[id](None, FAIL_REASON.LEADER_CHANGED)
+            self.__commandsWaitingReply[id](None, FAIL_REASON.UNKNOWN_OUTCOME)
         self.__commandsWaitingReply = {}

     def __sendAppendEntries(self):
"""

from harness import Cluster, verdict
from pysyncobj import FAIL_REASON

cluster = Cluster("abc")
cluster.elect("a")
cluster.write("a", "first")
cluster.run(0.3)
cluster.held.add(("a", "b"))
answer = cluster.propose("b", "second")
cluster.deliver("b", "a", tick=True)
cluster.period("a")
cluster.deliver("a", "c", tick=True)
print("b's command is in the logs of a and c; a dies")
cluster.kill("a")
cluster.elect("c", "b")
cluster.run(1.0)
refused = answer.error == FAIL_REASON.LEADER_CHANGED
print("b's caller was told LEADER_CHANGED:", refused, "; c:", cluster.state("c"))
verdict(refused and "second" in cluster.state("c"), "applied, and reported as not committed", "unknown")
