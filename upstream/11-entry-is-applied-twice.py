r"""An entry is applied twice on one node: after a callback that raises, and behind an unsupported version.

pysyncobj 0.3.17.

Expected: every entry changes the state once, whatever a caller's callback does.
Observed: raftLastApplied is advanced after the callbacks.  If one raises, the entry counts as not applied,
    and the next tick applies it again, on this node only: the nodes diverge.  A VERSION entry above the
    node's own version is skipped without being counted, so that the last entry of the batch is applied again
    in the next tick, under a wrong index.
Cause: syncobj.py, SyncObj.__applyLogEntries.
Change: count the entry before anybody is told; a callback's exception is logged; a node that does not support
    the version stops there (it cannot know what later entries mean) until it is upgraded.

--- a/pysyncobj/syncobj.py
+++ b/pysyncobj/syncobj.py
@@ -714,19 +714,21 @@
             for entry in entries:
                 try:
                     currentTermID = entry[2]
-                    subscribers = self.__commandsWaitingCommit.pop(entry[1], [])
                     res = self.__doApplyCommand(entry[0])
-                    for subscribeTermID, callback in subscribers:
-                        if subscribeTermID == currentTermID:
-                            callback(res, FAIL_REASON.SUCCESS)
-                        else:
-                            callback(None, FAIL_REASON.DISCARDED)
-
                     self.__raftLastApplied += 1
+                    for subscribeTermID, callback in self.__commandsWaitingCommit.pop(entry[1], []):
+                        try:
+                            if subscribeTermID == currentTermID:
+                                callback(res, FAIL_REASON.SUCCESS)
+                            else:
+                                callback(None, FAIL_REASON.DISCARDED)
+                        except Exception:
+                            logger.exception('callback of log entry %d failed', entry[1])
                 except SyncObjExceptionWrongVer as e:
                     logger.error(
                         'request to switch to unsupported code version (self version: %d, requested version: %d)' %
                         (self.__selfCodeVersion, e.ver))
+                    break

             if not self.__conf.appendEntriesUseBatch:
                 needSendAppendEntries = True
"""  # noqa: E501  # lines of the vendor

from harness import Cluster, engine, verdict


def raising(*_):
    raise RuntimeError("a bug in the caller's callback")


cluster = Cluster("abc")
cluster.elect("a")
cluster.write("a", "first")
with cluster.inside("a"):
    cluster.nodes["a"].append("once", callback=raising)
cluster.run(0.5)
callback = {name: cluster.state(name).count("once") for name in "abc"}
print("a callback raised at a; 'once' was applied:", callback)

cluster = Cluster("abc")
cluster.elect("a")
cluster.write("a", "first")
with cluster.inside("a"):  # what setCodeVersion(99) of a newer release sends
    cluster.nodes["a"]._applyCommand(engine.pickle.dumps(99), None, 3)
cluster.propose("a", "once")
cluster.run(0.5)
version = {name: cluster.state(name).count("once") for name in "abc"}
print("behind a VERSION entry that no node supports, 'once' was applied:", version)
verdict(
    max(callback.values()) > 1 or max(version.values()) > 1,
    "an entry was applied twice",
    "no entry was applied twice",
)
