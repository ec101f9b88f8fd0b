r"""A dump that cannot be loaded is only logged: an empty node leads; a failed install is acknowledged.

pysyncobj 0.3.17, journalFile and fullDumpFile.

Expected: a node that cannot load its dump takes no part; one that cannot load a snapshot does not say that
    it did.
Observed: a bare `except` logs and goes on.  On start, the node has the end of the journal and none of the
    state before it, and may lead: its clients see an empty state.  In a transfer, the follower answers
    `success` with the end of its old log, and the leader counts entries that it does not have.
Cause: syncobj.py, SyncObj.__loadDumpFile.
Change: raise.  The thread of pysyncobj logs the exception and tries again at each tick, and does not get
    further; a handler that raises answers nothing, and the leader sends the snapshot again.

--- a/pysyncobj/syncobj.py
+++ b/pysyncobj/syncobj.py
@@ -1507,8 +1507,9 @@
             if self.__conf.dynamicMembershipChange:
                 self.__updateClusterConfiguration([node for node in data[3] if node != self.__selfNode])
             self.__onSetCodeVersion(0)
-        except:
+        except Exception:
             logger.exception('failed to load full dump')
+            raise

     def __updateClusterConfiguration(self, newNodes):
         # newNodes: list of Node or node ID
"""

from harness import Cluster, temporary_directory, verdict

directory = temporary_directory()
cluster = Cluster("abc", directory)
cluster.elect("a")
cluster.write("a", *[f"item{n}" for n in range(10)])
cluster.run(0.5)
for name in "abc":
    cluster.compact(name)
cluster.write("a", "after")
cluster.run(1.5)
cluster.kill("a", "b", "c")
(directory / "a.dump").write_bytes(b"not a dump")
print("all were stopped, and a's dump file is damaged")
cluster.restart("a", "b", "c")
cluster.elect("a")
cluster.run(1.0)
print("a:", cluster.state("a"), " b has", len(cluster.state("b")), "items")
verdict(
    cluster.leads("a") and "item0" not in cluster.state("a"),
    "a node that lost its state leads the cluster",
    "the node does not take part",
)
