r"""A leader that cannot send a dump just now sends thousands of empty messages in one tick.

pysyncobj 0.3.17, useFork (the default) while a dump is being written, or a dump file that cannot be opened.

Expected: a follower that needs a dump gets heartbeats until there is one.
Observed: the sending loop goes on while nextIndex is behind, and without a dump nothing moves it: the loop
    ends only when appendEntriesPeriod is over, and begins again in the next tick.  After an error while
    reading the dump, getTransmissionData returns False, and `transmissionData[2]` raises TypeError.
Cause: syncobj.py, SyncObj.__sendAppendEntries.
Change: one message, then the next follower.

--- a/pysyncobj/syncobj.py
+++ b/pysyncobj/syncobj.py
@@ -1312,21 +1312,18 @@
                         'type': 'append_entries',
                         'term': self.__raftCurrentTerm,
                         'commit_index': self.__raftCommitIndex,
-                        'serialized': transmissionData,
+                        'serialized': transmissionData or None,
                     }
                     self.__transport.send(node, message)
                     if node not in self.__connectedNodes:
                         break

-                    if transmissionData is not None:
-                        isLast = transmissionData[2]
-                        if isLast:
-                            self.__raftNextIndex[node] = self.__raftLog[1][1] + 1
-                            sendingSerialized = False
-                        else:
-                            sendingSerialized = True
-                    else:
-                        sendingSerialized = False
+                    if not transmissionData:
+                        break  # a heartbeat is all, until there is a dump
+                    isLast = transmissionData[2]
+                    if isLast:
+                        self.__raftNextIndex[node] = self.__raftLog[1][1] + 1
+                    sendingSerialized = not isLast

                 nextNodeIndex = self.__raftNextIndex[node]

"""

from harness import Cluster, temporary_directory, verdict

directory = temporary_directory()
cluster = Cluster("abc", directory)
cluster.elect("a")
cluster.write("a", "first")
cluster.run(0.5)
cluster.isolate("c")
cluster.write("a", *[f"item{n}" for n in range(10)])
cluster.compact("a")
cluster.run(0.2)
(directory / "a.dump").unlink()  # as well: the forked child is at work
cluster.heal()
cluster.clock_step = 1e-4
worst = 0
for _ in range(8):
    cluster.now += 0.11
    before = len(cluster.sent)
    cluster.tick("a")
    worst = max(worst, len(cluster.sent) - before)
    cluster.exchange()
print("messages that one tick of the leader sent, to two followers:", worst)
verdict(worst > 10, "a busy loop of empty messages", "a heartbeat each")
