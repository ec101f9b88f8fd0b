r"""One command whose method raises stops the whole cluster, permanently.

pysyncobj 0.3.17.

Expected: a replicated method that raises fails its caller.  It does so on every node: the log goes on.
Observed: the exception leaves the tick before raftLastApplied is advanced.  Every tick of every node applies
    the same entry again and raises again.  The leader no longer reaches the code that sends heartbeats; the
    next leader does the same; after a restart the entry is still in the journal.
Cause: syncobj.py, SyncObj.__applyLogEntries.
Change: catch what the method raises, count the entry as applied, and tell the caller.  (FAIL_REASON has no
    member for it; UNKNOWN_OUTCOME is the nearest, a new one would be better.)

--- a/pysyncobj/syncobj.py
+++ b/pysyncobj/syncobj.py
@@ -715,10 +715,17 @@
                 try:
                     currentTermID = entry[2]
                     subscribers = self.__commandsWaitingCommit.pop(entry[1], [])
-                    res = self.__doApplyCommand(entry[0])
+                    res, err = None, FAIL_REASON.SUCCESS
+                    try:
+                        res = self.__doApplyCommand(entry[0])
+                    except SyncObjExceptionWrongVer:
+                        raise
+                    except Exception:
+                        logger.exception('failed to apply log entry %d', entry[1])
+                        err = FAIL_REASON.UNKNOWN_OUTCOME
                     for subscribeTermID, callback in subscribers:
                         if subscribeTermID == currentTermID:
-                            callback(res, FAIL_REASON.SUCCESS)
+                            callback(res, err)
                         else:
                             callback(None, FAIL_REASON.DISCARDED)

"""

from harness import Cluster, Items, replicated, temporary_directory, verdict


class Picky(Items):
    @replicated
    def append(self, item):
        if item == "bad":
            raise ValueError(item)
        self.items.append(item)


cluster = Cluster("", temporary_directory())
cluster.node_class, cluster.names = Picky, list("abc")
for name in "abc":
    cluster.start(name, "abc")
cluster.connect_all()
cluster.elect("a")
cluster.write("a", "first")
bad = cluster.propose("a", "bad")
cluster.run(1.0)
print("a was asked to append 'bad'; times that a tick raised:", {n: len(cluster.errors[n]) for n in "abc"})
cluster.restart("a", "b", "c")
cluster.elect("a")
cluster.run(1.0)
last = cluster.propose("a", "last")
cluster.run(3.0)
print("all were restarted; 'last' is acknowledged:", last.ok, "; calls for 'bad':", bad.calls)
verdict(not last.ok, "no command gets through now", "the caller of 'bad' has an error, the others go on")
