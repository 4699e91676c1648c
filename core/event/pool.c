#include "event/pool.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>

#include "base/memory.h"

struct bq_pool {
  bq_loop *loop;         // borrowed; takes the finished tasks
  pthread_mutex_t lock;  // guards first, last, queued, stopping, finished
  pthread_cond_t filled; // a task was queued, or stopping was set
  bq_task *first;        // waiting tasks, oldest first
  bq_task *last;
  size_t queued;         // length of that list
  size_t max_queued;
  size_t pending;        // submitted and not yet done; loop thread only
  int stopping;          // threads end when the list is empty; finished tasks go to `finished`
  bq_task *finished;     // done functions that bq_pool_free still has to call
  unsigned thread_count;
  char name[16];
  pthread_t threads[];   // thread_count of them
};

static bq_task *task_of(const bq_post *post) {
  return (bq_task *)((uintptr_t)post - offsetof(bq_task, post));
}

static void finish_on_loop(bq_post *post) {
  bq_task *task = task_of(post);
  task->pool->pending--;
  task->done(task);
}

// Whether a posted item is a finished task of the pool `arg`.
static int is_of_pool(const bq_post *post, const void *arg) {
  return post->run == finish_on_loop && task_of(post)->pool == arg;
}

static bq_task *take(bq_pool *pool) {
  pthread_mutex_lock(&pool->lock);
  while (pool->first == NULL && !pool->stopping) pthread_cond_wait(&pool->filled, &pool->lock);
  bq_task *task = pool->first;
  if (task != NULL) {
    pool->first = task->next;
    if (pool->first == NULL) pool->last = NULL;
    pool->queued--;
  }
  pthread_mutex_unlock(&pool->lock);
  return task;
}

static void hand_back(bq_pool *pool, bq_task *task) {
  pthread_mutex_lock(&pool->lock);
  int stopping = pool->stopping;
  if (stopping) {
    task->next = pool->finished;
    pool->finished = task;
  }
  pthread_mutex_unlock(&pool->lock);
  if (stopping) return;
  task->post.run = finish_on_loop;
  bq_loop_post(pool->loop, &task->post);
}

static void *worker(void *arg) {
  bq_pool *pool = arg;
  (void)pthread_setname_np(pthread_self(), pool->name);
  for (bq_task *task = take(pool); task != NULL; task = take(pool)) {
    task->work(task);
    hand_back(pool, task);
  }
  return NULL;
}

int bq_pool_new(bq_pool **out, bq_loop *loop, const char *name, unsigned threads, size_t max_queued, bq_error *err) {
  *out = NULL;
  bq_pool *pool = bq_alloc(sizeof *pool + threads * sizeof pool->threads[0]);
  if (pool == NULL) return bq_fail(err, BQ_ENOMEM, "out of memory for the %s threads", name);
  pool->loop = loop;
  pool->max_queued = max_queued;
  (void)snprintf(pool->name, sizeof pool->name, "%s", name);
  (void)pthread_mutex_init(&pool->lock, NULL);
  (void)pthread_cond_init(&pool->filled, NULL);
  // Signals belong to the loop's thread: workers are born with all of them blocked.
  sigset_t all, before;
  sigfillset(&all);
  (void)pthread_sigmask(SIG_SETMASK, &all, &before);
  int result = 0;
  for (; pool->thread_count < threads; pool->thread_count++) {
    int errnum = pthread_create(&pool->threads[pool->thread_count], NULL, worker, pool);
    if (errnum == 0) continue;
    result = bq_fail_errno(err, errnum, "can't start thread %u of %u of the %s pool", pool->thread_count + 1, threads,
                           name);
    break;
  }
  (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (result < 0) bq_pool_free(pool);
  else *out = pool;
  return result;
}

int bq_pool_submit(bq_pool *pool, bq_task *task, bq_error *err) {
  task->next = NULL;
  task->pool = pool;
  pthread_mutex_lock(&pool->lock);
  int full = pool->queued >= pool->max_queued;
  if (!full) {
    if (pool->first == NULL) pool->first = task;
    else pool->last->next = task;
    pool->last = task;
    pool->queued++;
    pthread_cond_signal(&pool->filled);
  }
  pthread_mutex_unlock(&pool->lock);
  if (full) return bq_fail(err, BQ_ELIMIT, "the %s pool has %zu tasks waiting already", pool->name, pool->max_queued);
  pool->pending++;
  return 0;
}

size_t bq_pool_pending(const bq_pool *pool) {
  return pool->pending;
}

void bq_pool_free(bq_pool *pool) {
  if (pool == NULL) return;
  pthread_mutex_lock(&pool->lock);
  pool->stopping = 1;
  pthread_cond_broadcast(&pool->filled);
  pthread_mutex_unlock(&pool->lock);
  for (unsigned i = 0; i < pool->thread_count; i++) (void)pthread_join(pool->threads[i], NULL);
  // Those that had ended before: the loop may not run again.
  for (bq_post *post; (post = bq_loop_take_back(pool->loop, is_of_pool, pool)) != NULL;) finish_on_loop(post);
  while (pool->finished != NULL) {
    bq_task *task = pool->finished;
    pool->finished = task->next;
    pool->pending--;
    task->done(task);
  }
  pthread_cond_destroy(&pool->filled);
  pthread_mutex_destroy(&pool->lock);
  bq_free(pool);
}
