r"""A dump stores a membership change that was never committed.

pysyncobj 0.3.17, dynamicMembershipChange=True.

Expected: a dump holds the configuration as of its last applied entry.
Observed: it holds the configuration in force, with changes that are only in the log of a leader that is cut
    off.  Such an entry is overwritten later; a node that restarts from the dump keeps the change: its
    majorities and those of the others need not overlap.
Cause: syncobj.py, SyncObj.__tryLogCompaction, `cluster = self.__otherNodes | {self.__selfNode}`.
Change: take the changes above the last applied entry back out of the set.

--- a/pysyncobj/syncobj.py
+++ b/pysyncobj/syncobj.py
@@ -1467,6 +1467,11 @@
         else:
             data = None
         cluster = self.__otherNodes | {self.__selfNode}
+        if self.__conf.dynamicMembershipChange:
+            for entry in reversed(self.__getEntries(self.__raftLastApplied + 1)):
+                request = self.__parseChangeClusterRequest(entry[0])
+                if request is not None:
+                    (cluster.discard if request[0] == 'add' else cluster.add)(request[2])
         self.__serializer.serialize((data, lastAppliedEntries[1], lastAppliedEntries[0], cluster), lastAppliedEntries[0][1])

     def __loadDumpFile(self, clearJournal):
"""  # noqa: E501  # lines of the vendor

import gzip
import pickle

from harness import Cluster, temporary_directory, verdict

directory = temporary_directory()
cluster = Cluster("abc", directory)
cluster.elect("a")
cluster.write("a", "first", "second")
cluster.isolate("a")
cluster.member("a", "add", "d")
cluster.tick("a")
print("a is cut off and adds d; nobody else has seen that entry")
cluster.compact("a")
with gzip.open(directory / "a.dump") as file:
    stored = sorted(node.id for node in pickle.load(file)[3])
print("a's dump says that the voters are", stored)
verdict("d" in stored, "the uncommitted change is in the dump", "the dump holds what is committed")
