r"""A leader that nobody answers stays leader for 30 seconds.

pysyncobj 0.3.17, default settings.

Expected: about an election timeout after the last answer of a majority a leader steps down (Raft
    dissertation, 6.2): by then the others have a new one.
Observed: leaderFallbackTimeout is 30 seconds, twenty times raftMaxTimeout.  All that time _isLeader() is
    true, reads on that node are stale, and commands are accepted that can never be committed.
Cause: config.py, SyncObjConf.leaderFallbackTimeout.
Change: default to raftMaxTimeout.

--- a/pysyncobj/config.py
+++ b/pysyncobj/config.py
@@ -54,7 +54,7 @@
         #: When leader has no response from the majority of the cluster
         #: for leaderFallbackTimeout - it will fallback to follower state.
         #: Should be more than appendEntriesPeriod.
-        self.leaderFallbackTimeout = kwargs.get('leaderFallbackTimeout', 30.0)
+        self.leaderFallbackTimeout = kwargs.get('leaderFallbackTimeout', self.raftMaxTimeout)

         #: Send multiple entries in a single command.
         #: Enabled (default) - improve overall performance (requests per second)
"""

from harness import Cluster, verdict

cluster = Cluster("abc")
cluster.elect("a")
cluster.write("a", "first")
cluster.held |= {("b", "a"), ("c", "a")}
start = cluster.now
print("from now on no answer reaches a")
while cluster.leads("a") and cluster.now < start + 60:
    cluster.now += 0.05
    cluster.tick("a")
seconds = cluster.now - start
print(f"a was leader for {seconds:.1f} seconds more; raftMaxTimeout is 1.4 seconds")
verdict(seconds > 5, "a leader without followers leads on", "it stepped down")
