r"""A durable journal is compacted although there is no dump file: the state is gone after a restart.

pysyncobj 0.3.17, journalFile set, fullDumpFile not set.

Expected: "File to store operations journal. Save each record as soon as received": the records stay until
    something durable replaces them.
Observed: after logCompactionMinEntries, or 300 seconds, the dump is made in memory and the journal is cut
    behind it.  After a restart of all nodes, everything before is gone.
Cause: syncobj.py, SyncObj.__tryLogCompaction.
Change: do not compact a journal file without a dump file.

--- a/pysyncobj/syncobj.py
+++ b/pysyncobj/syncobj.py
@@ -1419,6 +1419,9 @@
         return pickle.loads(command[1:])

     def __tryLogCompaction(self):
+        if self.__conf.journalFile is not None and self.__conf.fullDumpFile is None:
+            return  # nothing durable would replace what is cut
+
         currTime = monotonicTime()
         serializeState, serializeID = self.__serializer.checkSerializing()

"""

from harness import Cluster, temporary_directory, verdict

cluster = Cluster("abc", temporary_directory(), dump=False)
cluster.elect("a")
answers = cluster.write("a", *[f"item{n}" for n in range(10)])
cluster.run(301.0)  # logCompactionMinTime
answers += cluster.write("a", "after")
cluster.run(1.5)
print("acknowledged:", sum(answer.ok for answer in answers), "; five minutes pass, then all nodes restart")
cluster.kill("a", "b", "c")
cluster.restart("a", "b", "c")
cluster.elect("a")
cluster.run(1.0)
print({name: cluster.state(name) for name in "abc"})
verdict("item0" not in cluster.state("a"), "acknowledged commands are on no node", "all commands are there")
