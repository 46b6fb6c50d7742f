/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * weir.pml - the protocol between guest, relay, local disk and target
 *
 * Purpose: every interleaving of it, within small bounds, and at every step
 *          every fault. The claim is equality, in both directions: of a
 *          cluster that weir calls clean, disk and target hold the same, in
 *          their caches and on their media, now and whatever happens next;
 *          also right after recovery, with what recovery concludes. (While a
 *          guest's write is in flight its cluster's bit says nothing: it is
 *          marked again at completion.)
 * Units:   content of a cluster is a number: 0 at first, then which write of
 *          the guest's it is. UNKNOWN is no content: a sum not known.
 * Shapes:  one process each for the guest of a cluster, the relay's side of a
 *          connection, the keeper that cools extents, the thread that makes
 *          sums durable. While weir is down they abandon what they do
 *          (STEP); recovery begins when all have.
 * Source:  rules 1 to 6 of the protocol (README.md, "The rule that everything
 *          hangs on"; bitmap/disk-map.h, relay/core.h).
 *
 * Bounds, by -D: CLUSTERS 1 or 2, CONNS 1 or 2, EXTENTS 1 or 2, WRITES of
 * each guest, LOSSES of a connection, FAR crashes of the target, CRASHES of
 * weir: by kill -9 or by a power cut. LOCAL=0 leaves out what is kept on the
 * local disk (then CRASHES has to be 0).
 *
 * What is written and not synced may reach the medium at any time, or never:
 * either at once, when it is written, or at the power cut. (Old images of
 * a cache that were overwritten unsynced are covered by that.)
 *
 * Each MUTANT_ breaks one rule; run-model expects an error from each. REACH_
 * claim that something never happens that must be able to happen, so that the
 * proof is not about a model in which nothing goes on.
 */
#ifndef CLUSTERS
#define CLUSTERS 2
#endif
#ifndef CONNS
#define CONNS 2
#endif
#ifndef EXTENTS
#define EXTENTS 1
#endif
#ifndef WRITES
#define WRITES 1
#endif
#ifndef LOSSES
#define LOSSES 1
#endif
#ifndef FAR
#define FAR 1
#endif
#ifndef LOCAL
#define LOCAL 1
#endif
#ifndef CRASHES
#define CRASHES 0
#endif

#define UNKNOWN 7
#define NOBODY  3

#if EXTENTS == 2
#define EXT(c) (c)
#else
#define EXT(c) 0
#endif

/* May already be on the medium, or not yet. */
#define MAYBE(action) if :: action :: skip fi

/* One step of a process of weir's; if weir is down it gives up instead. */
#define STEP(action)  if :: atomic { down -> goto abandon } \
                         :: atomic { !down -> action } fi

/*
 * The local disk and what is kept on it: cache and medium
 */
byte disk[CLUSTERS];           /* what a read finds */
byte disk_medium[CLUSTERS];    /* what a power cut leaves */
byte submitted[CLUSTERS];      /* a guest's write at the ring; 0 none */
byte zombie_local[CLUSTERS];   /* that of a killed weir; 0 none */
bool intent[EXTENTS], intent_medium[EXTENTS];
bool saved[CLUSTERS], saved_medium[CLUSTERS];   /* checkpoint: fine bits */
byte sum[CLUSTERS], sum_medium[CLUSTERS];
bool logged[CLUSTERS], logged_medium[CLUSTERS]; /* sent-log */

/*
 * The target
 */
byte target[CLUSTERS];         /* what a read finds */
byte target_medium[CLUSTERS];
bool unflushed[4];             /* CONNS x CLUSTERS: in this conn's cache */
byte wire_cluster[CONNS];      /* a write on its way; NOBODY none */
byte wire_content[CONNS];
byte zombie_cluster[CONNS];    /* ... of a connection that is gone */
byte zombie_content[CONNS];
bool is_acked[CONNS];

#define UNFLUSHED(k, c) unflushed[(k) * 2 + (c)]

/*
 * weir's memory
 */
bool open_bit[CLUSTERS], sealed[CLUSTERS];
bool in_flight[CLUSTERS];      /* guest's writes */
bool is_sending[CLUSTERS];     /* at most one write in flight per cluster */
bool in_doubt[CLUSTERS];
bool hot[EXTENTS], touched[EXTENTS];
bool is_lost[CONNS];           /* the connection of the running op is gone */
bool down;
#ifdef MUTANT_CLEAR_BY_GENERATION
byte generation[CLUSTERS];
#endif

/* Who is in the middle of something, and has not noticed that weir is down. */
bool guest_acts[CLUSTERS], relay_acts[CONNS], keeper_acts, sums_act;

byte losses = LOSSES, far_crashes = FAR, crashes = CRASHES;

#if CLUSTERS == 2
#define ALL(p) (p(0) && p(1))
#define ANY(p) (p(0) || p(1))
#define PICK(p, c) if :: p(0) -> c = 0 :: p(1) -> c = 1 fi
#define EACH(p) p(0); p(1)
#define EXTENT_IN_FLIGHT(e) ((EXT(0) == e && in_flight[0]) || \
                             (EXT(1) == e && in_flight[1]))
#else
#define ALL(p) (p(0))
#define ANY(p) (p(0))
#define PICK(p, c) c = 0
#define EACH(p) p(0)
#define EXTENT_IN_FLIGHT(e) (in_flight[0])
#endif
#if EXTENTS == 2
#define ANY_EXTENT(p) (p(0) || p(1))
#define PICK_EXTENT(p, e) if :: p(0) -> e = 0 :: p(1) -> e = 1 fi
#else
#define ANY_EXTENT(p) p(0)
#define PICK_EXTENT(p, e) e = 0
#endif
#if CONNS == 2
#define EACH_CONN(p) p(0); p(1)
#define RELAY_ACTS (relay_acts[0] || relay_acts[1])
#define HAS_ZOMBIE(c) (zombie_cluster[0] == c || zombie_cluster[1] == c)
#else
#define EACH_CONN(p) p(0)
#define RELAY_ACTS (relay_acts[0])
#define HAS_ZOMBIE(c) (zombie_cluster[0] == c)
#endif

#define IS_DIRTY(c) (open_bit[c] || sealed[c])
#define IS_SOUND(c) (IS_DIRTY(c) || in_flight[c] || \
                     (disk[c] == target[c] && disk[c] == target_medium[c]))
#define IS_SETTLED(c) (!sealed[c])

/* Enabled only where the claim fails: costs no state where it holds. */
active proctype claim()
{
    atomic { !down && !(ALL(IS_SOUND)) -> assert(false) }
}

/*
 * The guest of one cluster. Rule 1: marked before the write can reach the
 * disk, its extent durably hot before that, and marked again at completion.
 */
proctype guest(byte c)
{
    byte content = 0;

    do
    :: atomic {
           !down && content < WRITES ->
           content++;
           guest_acts[c] = true;
           open_bit[c] = true;
           in_flight[c] = true;
#ifdef MUTANT_CLEAR_BY_GENERATION
           generation[c]++;
#endif
           touched[EXT(c)] = true
       }
#if LOCAL && !defined(MUTANT_INTENT_LATE)
       if
       :: atomic { down -> goto abandon }
       :: atomic { !down && hot[EXT(c)] }
       :: atomic { !down && !hot[EXT(c)] -> intent[EXT(c)] = true }
          STEP(intent_medium[EXT(c)] = true; hot[EXT(c)] = true)
       fi;
#endif
       STEP(submitted[c] = content);
       STEP(disk[c] = content; MAYBE(disk_medium[c] = content);
            submitted[c] = 0);
#ifdef MUTANT_INTENT_LATE
       STEP(intent[EXT(c)] = true);
       STEP(intent_medium[EXT(c)] = true; hot[EXT(c)] = true);
#endif
       STEP(in_flight[c] = false; guest_acts[c] = false;
            touched[EXT(c)] = true;
#ifndef MUTANT_NO_SECOND_MARKING
            open_bit[c] = true
#endif
       );
       goto done;
abandon:
       atomic { guest_acts[c] = false };
done:  skip
    od
}

/*
 * Rule 2. What is sealed drains wholly before the next is sealed.
 */
#ifndef MUTANT_CLEAR_BY_GENERATION
active proctype sealer()
{
#define SEAL(c) sealed[c] = open_bit[c]; open_bit[c] = false
    do
    :: atomic { !down && ALL(IS_SETTLED) -> EACH(SEAL) }
    od
}
#endif

#ifdef MUTANT_CLEAR_BY_GENERATION
#define IS_OWED(c) IS_DIRTY(c)
#else
#define IS_OWED(c) sealed[c]
#endif
#ifndef MUTANT_NO_QUARANTINE
#define RESTS(c) (in_doubt[c] && HAS_ZOMBIE(c))
#else
#define RESTS(c) false
#endif
#ifndef MUTANT_TWO_IN_FLIGHT
#define IS_TAKEN(c) is_sending[c]
#else
#define IS_TAKEN(c) false
#endif
#define MAY_SEND(c) (IS_OWED(c) && !IS_TAKEN(c) && !RESTS(c))

inline flush(k) {
    if
    :: UNFLUSHED(k, 0) -> target_medium[0] = target[0];
       UNFLUSHED(k, 0) = false
    :: else
    fi;
#if CLUSTERS == 2
    if
    :: UNFLUSHED(k, 1) -> target_medium[1] = target[1];
       UNFLUSHED(k, 1) = false
    :: else
    fi
#endif
}

/* The op is over, whatever became of it: with nothing left behind. */
inline op_end(k, c) {
    is_sending[c] = false;
    is_lost[k] = false;
    is_acked[k] = false;
    relay_acts[k] = false;
    c = NOBODY;
    content = UNKNOWN
}

inline clear(c) {
#ifdef MUTANT_CLEAR_BY_GENERATION
    if
    :: generation[c] == seen -> open_bit[c] = false
    :: else
    fi;
#endif
    sealed[c] = false
}

/*
 * One connection: takes a cluster, sends it, flushes, settles. A cluster in
 * doubt rests until no zombie of it can come any more, and is read back.
 */
proctype relay(byte k)
{
    byte c = NOBODY, content = UNKNOWN;
#ifdef MUTANT_CLEAR_BY_GENERATION
    byte seen;
#endif

    do
    :: atomic {
           !down && !is_lost[k] && ANY(MAY_SEND) ->
           PICK(MAY_SEND, c);
#ifdef MUTANT_CLEAR_BY_GENERATION
           seen = generation[c];
#endif
           is_sending[c] = true;
           relay_acts[k] = true
       }
       STEP(content = disk[c]);
       if
       :: atomic { down -> goto abandon }
       :: atomic {
              !down && !in_doubt[c] && sum[c] == content ->
              clear(c);
              goto over
          }
       :: atomic { !down && (in_doubt[c] || sum[c] != content) }
       fi;
       /* Rule 5: durably in the log before it leaves. */
       STEP(logged[c] = true; logged_medium[c] = true; sum[c] = UNKNOWN;
            MAYBE(sum_medium[c] = UNKNOWN));
       if
       :: atomic { down || is_lost[k] -> goto abandon }
       :: atomic {
              !down && !is_lost[k] ->
              wire_cluster[k] = c;
              wire_content[k] = content
          }
       fi;
       if
       :: atomic { down || is_lost[k] -> goto abandon }
       :: atomic {
              !down && !is_lost[k] && is_acked[k] ->
              is_acked[k] = false;
#ifdef MUTANT_SUM_BEFORE_FLUSH
              sum[c] = content; MAYBE(sum_medium[c] = content)
#endif
          }
       fi;
#ifndef MUTANT_CLEAR_BEFORE_FLUSH
       if
       :: atomic { down || is_lost[k] -> goto abandon }
#ifdef MUTANT_FLUSH_ONE
       :: atomic { !down && !is_lost[k] -> flush(0) }
#else
       :: atomic { !down && !is_lost[k] -> flush(k) }
#endif
       fi;
#endif
       if
       :: atomic { down || is_lost[k] -> goto abandon }
       :: atomic {
              !down && !is_lost[k] && in_doubt[c] && target[c] != content ->
              goto over
          }
       :: atomic {
              !down && !is_lost[k] &&
                  (!in_doubt[c] || target[c] == content) ->
              in_doubt[c] = false;
              clear(c);
              sum[c] = content;
              MAYBE(sum_medium[c] = content);
#ifdef MUTANT_LOG_EARLY
              logged[c] = false; MAYBE(logged_medium[c] = false)
#endif
          }
       fi;
over:
abandon:
       atomic { op_end(k, c) }
    :: atomic { is_lost[k] && !relay_acts[k] -> is_lost[k] = false }
    od
}

/*
 * Sums become durable, and then, if nothing of that cluster is under way,
 * it leaves the log. That needs no sync: a stale entry is only more work.
 */
#if LOCAL && !defined(MUTANT_LOG_EARLY)
#define MAY_LEAVE(c) (logged[c] && sum[c] != UNKNOWN && !is_sending[c])

active proctype sums()
{
    byte c = 0;

    do
    :: atomic {
           !down && ANY(MAY_LEAVE) ->
           PICK(MAY_LEAVE, c);
           sums_act = true
       }
       STEP(sum_medium[c] = sum[c]);
       if
       :: atomic { down -> goto abandon }
       :: atomic {
              !down && !is_sending[c] && sum[c] == sum_medium[c] &&
                  sum[c] != UNKNOWN ->
              logged[c] = false;
              MAYBE(logged_medium[c] = false)
          }
       :: atomic {
              !down && (is_sending[c] || sum[c] != sum_medium[c] ||
                        sum[c] == UNKNOWN)
          }
       fi;
abandon:
       atomic { c = 0; sums_act = false }
    od
}
#endif

/*
 * Rule 3: data synced, then fine bits, then cold; if nothing came between.
 */
#if LOCAL
active proctype keeper()
{
    byte e = 0;
    bool seen[CLUSTERS];

#define SYNC(c) disk_medium[c] = disk[c]
#define LOOK(c) seen[c] = IS_DIRTY(c)
#define SAVE(c) saved[c] = seen[c]; MAYBE(saved_medium[c] = seen[c])
#define KEEP(c) saved_medium[c] = saved[c]
#define FORGET(c) seen[c] = false
#define MAY_COOL(e) (hot[e] && !EXTENT_IN_FLIGHT(e))
    do
    :: atomic {
           !down && ANY_EXTENT(MAY_COOL) ->
           PICK_EXTENT(MAY_COOL, e);
           keeper_acts = true;
           touched[e] = false
       }
#ifndef MUTANT_NO_LOCAL_SYNC
       STEP(EACH(SYNC));
#endif
       STEP(EACH(LOOK); EACH(SAVE));
       STEP(EACH(KEEP));
       if
       :: atomic { down -> goto abandon }
#ifdef MUTANT_NO_RECHECK
       :: atomic { !down -> hot[e] = false; intent[e] = false;
                   MAYBE(intent_medium[e] = false) }
#else
       :: atomic {
              !down && !touched[e] && !EXTENT_IN_FLIGHT(e) ->
              hot[e] = false;
              intent[e] = false;
              MAYBE(intent_medium[e] = false)
          }
       :: atomic { !down && (touched[e] || EXTENT_IN_FLIGHT(e)) }
#endif
       fi;
abandon:
       atomic { e = 0; EACH(FORGET); keeper_acts = false }
    od
}
#endif

/*
 * The target executes what is on the wire, and what is left of connections
 * that are gone, at any time; zombies perhaps never.
 */
inline execute(c, content) {
    target[c] = content;
    MAYBE(target_medium[c] = content)
}

proctype server(byte k)
{
    do
    :: atomic {
           wire_cluster[k] != NOBODY ->
           execute(wire_cluster[k], wire_content[k]);
           UNFLUSHED(k, wire_cluster[k]) = true;
           wire_cluster[k] = NOBODY;
           wire_content[k] = 0;
           is_acked[k] = true
       }
    :: atomic {
           zombie_cluster[k] != NOBODY ->
           MAYBE(execute(zombie_cluster[k], zombie_content[k]));
           zombie_cluster[k] = NOBODY;
           zombie_content[k] = 0
       }
    od
}

/*
 * Faults
 */

/* What is on its way becomes a zombie; a cache of this connection's own is
 * nobody's to flush any more. */
inline cut(k) {
    if
    :: wire_cluster[k] != NOBODY ->
       in_doubt[wire_cluster[k]] = true;
       zombie_cluster[k] = wire_cluster[k];
       zombie_content[k] = wire_content[k];
       wire_cluster[k] = NOBODY;
       wire_content[k] = 0
    :: else
    fi;
    is_acked[k] = false;
    UNFLUSHED(k, 0) = false;
    UNFLUSHED(k, 1) = false
}

#define CUT(k) cut(k); is_lost[k] = relay_acts[k]
#define CAN_CUT(k) (zombie_cluster[k] == NOBODY)

active proctype line()
{
    do
    :: atomic { losses && !down && CAN_CUT(0) -> losses--; CUT(0) }
#if CONNS == 2
    :: atomic { losses && !down && CAN_CUT(1) -> losses--; CUT(1) }
#endif
    od
}

/* The far side loses its power: so ends every write that was to come. */
#define LOSE(now, medium) if :: now != medium -> now = medium \
                             :: now != medium -> medium = now \
                             :: now == medium fi
#define FAR_LOSE(c) LOSE(target[c], target_medium[c])
#define BURY(k) zombie_cluster[k] = NOBODY; zombie_content[k] = 0

active proctype far_side()
{
    do
    :: atomic {
           far_crashes && !down ->
           far_crashes--;
           EACH_CONN(CUT);
           EACH_CONN(BURY);
           EACH(FAR_LOSE)
       }
    od
}

#if CRASHES
#define POWER_CUT(c) LOSE(disk[c], disk_medium[c]); \
                     LOSE(sum[c], sum_medium[c]); \
                     LOSE(saved[c], saved_medium[c]); \
                     LOSE(logged[c], logged_medium[c])
#define LEAVE_BEHIND(c) zombie_local[c] = submitted[c]
#define DISOWN(c) submitted[c] = 0; in_flight[c] = false; \
                  open_bit[c] = false; sealed[c] = false; \
                  is_sending[c] = false; in_doubt[c] = false
#define END_CONN(k) cut(k); is_lost[k] = false
#define ENDS_CLEANLY(k) (zombie_cluster[k] == NOBODY)
#define LAND(c) if :: zombie_local[c] -> \
                      if :: disk[c] = zombie_local[c]; \
                            MAYBE(disk_medium[c] = zombie_local[c]) \
                         :: skip \
                      fi; zombie_local[c] = 0 \
                   :: else fi
#define HAS_NO_LOCAL_ZOMBIE(c) (!zombie_local[c])
#define GUEST_IS_OUT(c) (!guest_acts[c])
#ifdef MUTANT_SUM_IN_LOG
#define DISTRUST(c) in_doubt[c] = false
#else
#define DISTRUST(c) in_doubt[c] = logged[c]; \
                    if :: logged[c] -> sum[c] = UNKNOWN :: else fi
#endif
/* Dirty: the last checkpoint, what is in hot extents, what is in the log. */
#define RECOVER(c) DISTRUST(c); \
                   sealed[c] = saved[c] || intent[EXT(c)] || logged[c]
#ifdef MUTANT_NO_RECOVERY_SYNC
#define SYNC_INTENT(e) skip
#else
#define SYNC_INTENT(e) intent_medium[e] = intent[e]
#endif
#define WARM_UP(e) SYNC_INTENT(e); hot[e] = intent[e]; touched[e] = intent[e]

active proctype machine()
{
    do
    :: atomic { /* kill -9: the ring goes on, caches are kept */
           crashes && !down ->
           crashes--;
           down = true;
           EACH(LEAVE_BEHIND);
           EACH_CONN(END_CONN);
           EACH(DISOWN)
       }
    :: atomic { /* power cut */
           crashes && !down ->
           crashes--;
           down = true;
           EACH_CONN(END_CONN);
           EACH(DISOWN);
           EACH(POWER_CUT);
           LOSE(intent[0], intent_medium[0]);
#if EXTENTS == 2
           LOSE(intent[1], intent_medium[1])
#endif
       }
    :: atomic { zombie_local[0] -> LAND(0) }
#if CLUSTERS == 2
    :: atomic { zombie_local[1] -> LAND(1) }
#endif
    :: atomic { /* recovery: rule 6, the lock is free */
           down && ALL(GUEST_IS_OUT) && !RELAY_ACTS && !keeper_acts &&
               !sums_act &&
#ifndef MUTANT_NO_LOCK
               ALL(HAS_NO_LOCAL_ZOMBIE) &&
#endif
               true ->
           EACH(RECOVER);
           WARM_UP(0);
#if EXTENTS == 2
           WARM_UP(1);
#endif
           down = false
       }
    od
}
#endif

#ifdef REACH_CLEAN_AFTER_CRASH
#define HAS_CONTENT(c) (!IS_DIRTY(c) && target[c] == WRITES)
active proctype reach()
{
    atomic { !down && crashes == 0 && ALL(HAS_CONTENT) -> assert(false) }
}
#endif
#ifdef REACH_COLD_AND_DIRTY
active proctype reach()
{
    atomic { !down && !hot[0] && sealed[0] && disk[0] == WRITES &&
             crashes == 0 -> assert(false) }
}
#endif

init {
    atomic {
#define BLANK(k) wire_cluster[k] = NOBODY; zombie_cluster[k] = NOBODY
        EACH_CONN(BLANK);
#define START_GUEST(c) run guest(c)
#define START_CONN(k) run relay(k); run server(k)
        EACH(START_GUEST);
        EACH_CONN(START_CONN)
    }
}
