r"""A crash between writing the dump and cutting the journal empties the journal on the next start.

pysyncobj 0.3.17, journalFile and fullDumpFile.

Expected: the journal is durable; the dump only replaces its beginning.
Observed: the dump is on disk, the journal is not cut yet (the cut happens in a later tick; with useFork much
    later), and the follower acknowledges more entries, then dies.  When it starts again it finds that the
    journal does not begin with the dump's entries, and clears it: all entries behind the dump, acknowledged
    ones too, are gone.
Cause: syncobj.py, SyncObj.__loadDumpFile, `self.__raftLog[0] != data[2] or self.__raftLog[1] != data[1]`.
Change: look for the dump's entries at their index, and cut the journal there.

--- a/pysyncobj/syncobj.py
+++ b/pysyncobj/syncobj.py
@@ -1486,13 +1486,12 @@
                 for i, consumer in enumerate(self.__consumers):
                     consumer._deserialize(consumersData[i])

-            if clearJournal or \
-                    len(self.__raftLog) < 2 or \
-                    self.__raftLog[0] != data[2] or \
-                    self.__raftLog[1] != data[1]:
+            if clearJournal or self.__getEntries(data[2][1], 2) != [data[2], data[1]]:
                 self.__raftLog.clear()
                 self.__raftLog.add(*data[2])
                 self.__raftLog.add(*data[1])
+            else:
+                self.__deleteEntriesTo(data[2][1])

             self.__raftLastApplied = data[1][1]

"""

from harness import Cluster, temporary_directory, verdict

cluster = Cluster("abc", temporary_directory())
cluster.elect("a")
cluster.write("a", *[f"early{n}" for n in range(8)])
cluster.run(1.5)
cluster.isolate("c")
cluster.nodes["b"].forceLogCompaction()
cluster.tick("b")
print("b has written its dump, and does not tick again")
late = [cluster.propose("a", f"late{n}") for n in range(4)]
for _ in range(4):
    cluster.period("a")
    cluster.deliver("a", "b")
    cluster.deliver("b", "a")
cluster.tick("a")
print("a and b hold four more commands, acknowledged:", sum(answer.ok for answer in late))
print("b's journal ends at", cluster.log("b")[-1][1], "; a and b die")
cluster.kill("a", "b")
cluster.heal()
cluster.restart("b")
print("b starts again; its journal ends at", cluster.log("b")[-1][1])
cluster.elect("b", "c")
cluster.run(1.0)
lost = [answer.item for answer in late if answer.ok and answer.item not in cluster.state("b")]
verdict(bool(lost), f"acknowledged commands {lost} are on no running node", "nothing was lost")
