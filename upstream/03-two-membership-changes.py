r"""Two membership changes at once: two disjoint majorities.

pysyncobj 0.3.17, dynamicMembershipChange=True.

Expected: a leader refuses a membership change while the previous one is not committed.  The code says so
    ("Previous cluster change request was not commited yet").
Observed: the guard variable is never set.  A leader that is cut off from both other nodes removes both, is
    its own majority, and acknowledges commands; the other two elect a leader and acknowledge others.
Cause: syncobj.py, SyncObj.__changeCluster: __changeClusterIDx is only ever assigned None.
Change: set it to the index that the entry will have; forget it when this node becomes leader again (its no-op
    already guards the changes of earlier terms).

--- a/pysyncobj/syncobj.py
+++ b/pysyncobj/syncobj.py
@@ -1226,6 +1226,7 @@
         idx, term = self.__getCurrentLogIndex() + 1, self.__raftCurrentTerm
         self.__raftLog.add(_bchr(_COMMAND_TYPE.NO_OP), idx, term)
         self.__noopIDx = idx
+        self.__changeClusterIDx = None
         if not self.__conf.appendEntriesUseBatch:
             self.__sendAppendEntries()

@@ -1366,7 +1367,10 @@
         if self.__changeClusterIDx is not None:
             return False

-        return self.__doChangeCluster(request)
+        if not self.__doChangeCluster(request):
+            return False
+        self.__changeClusterIDx = self.__getCurrentLogIndex() + 1
+        return True

     def __setCodeVersion(self, newVersion):
         self.__enabledCodeVersion = newVersion
"""

from harness import Cluster, verdict

cluster = Cluster("abc")
cluster.elect("a")
cluster.write("a", "first")
cluster.run(0.5)
cluster.isolate("a")
print("a is cut off and is asked to remove b, then c")
for name in "bc":
    cluster.member("a", "remove", name)
mine = cluster.propose("a", "mine")
for _ in range(10):
    cluster.now += 0.02
    cluster.tick("a")
print("a takes the voters to be", cluster.voters("a"), "; 'mine' is acknowledged:", mine.ok)
cluster.elect("b", "c")
theirs = cluster.propose("b", "theirs")
cluster.run(1.0, reconnect=False)
print("a:", cluster.state("a"), " b:", cluster.state("b"))
verdict(mine.ok and theirs.ok, "two majorities acknowledged", "the second change was refused")
