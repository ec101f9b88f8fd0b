r"""After a restart the configuration is the constructor's, not the log's: two of five are a majority.

pysyncobj 0.3.17, dynamicMembershipChange=True, journalFile, nodes restarted as they were first started.

Expected: a node uses the newest configuration in its log, committed or not (Raft dissertation, 4.1).
Observed: membership entries in the journal have no effect until they are applied, one by one.  Two founders
    of a cluster that has grown from three to five restart, find each other, and elect a leader with 2 of 3.
    Applying an old `add` also brings a node back that a later entry removed.
Cause: syncobj.py, SyncObj.__init__ (otherNodes), SyncObj.__doApplyCommand (changes the configuration).
Change: the configuration is the constructor's or the dump's, plus every membership entry of the journal,
    taken when the node starts; applying such an entry changes nothing.

--- a/pysyncobj/syncobj.py
+++ b/pysyncobj/syncobj.py
@@ -625,6 +625,12 @@
             if self.__conf.fullDumpFile is not None and os.path.isfile(self.__conf.fullDumpFile):
                 self.__loadDumpFile(clearJournal=False)
             self.__needLoadDumpFile = False
+            if self.__conf.dynamicMembershipChange:
+                # The newest configuration in the log counts, committed or not (Raft dissertation, 4.1).
+                for entry in self.__getEntries(max(self.__raftLastApplied, self.__raftLog[0][1])):
+                    clusterChangeRequest = self.__parseChangeClusterRequest(entry[0])
+                    if clusterChangeRequest is not None:
+                        self.__doChangeCluster(clusterChangeRequest)

         workTime = monotonicTime() - self.__startTime
         if workTime > self.__numOneSecondDumps:
@@ -881,13 +887,6 @@
             if callback is not None:
                 callback(oldVer, ver)
             return
-
-        #  This is required only after node restarts and apply journal
-        # for normal case it is already done earlier and calls will be ignored
-        clusterChangeRequest = self.__parseChangeClusterRequest(command)
-        if clusterChangeRequest is not None:
-             self.__doChangeCluster(clusterChangeRequest)
-             return

         if commandType != _COMMAND_TYPE.REGULAR:
             return
"""

from harness import Cluster, temporary_directory, verdict

cluster = Cluster("abc", temporary_directory())
cluster.elect("c")
cluster.write("c", "first")
cluster.run(0.5)
cluster.join("c", "d")
cluster.join("c", "e")
cluster.run(0.15)
print("the voters are", cluster.voters("c"), "; a and b die")
cluster.kill("a", "b")
three = cluster.write("c", "three-of-five")[0]
cluster.isolate("a", "b")
cluster.restart("a", "b", members="abc")
print("a and b are back, cut off from the others; a takes the voters to be", cluster.voters("a"))
cluster.campaign("a")
for _ in range(12):
    if not cluster.leads("a"):
        cluster.exchange("a", "b")
        cluster.tick("a")
two = cluster.propose("a", "two-of-five")
cluster.period("a")
cluster.deliver("a", "b")
cluster.deliver("b", "a")
for _ in range(20):
    cluster.now += 0.02
    cluster.tick("a")
    cluster.exchange("a", "b")
print("a:", cluster.state("a"), " c:", cluster.state("c"))
verdict(two.ok and three.ok, "two of five and three of five both acknowledged", "two of five elect nobody")
