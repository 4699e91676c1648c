// graphile-worker beside which our jobs are measured: node graphile.mjs CONNECTION JOBS ordinary|batched
// Prints the jobs a second of a task that does nothing. `latency` instead of a number of jobs: milliseconds from adding a
// job to its start, one at a time, as JSON.
import { createRequire } from "node:module";

const require = createRequire(process.env.GRAPHILE_DIRECTORY + "/");
const { run, makeWorkerUtils, Logger } = require("graphile-worker");
const { Pool } = require("pg");

const [connectionString, what, mode] = process.argv.slice(2);
const logger = new Logger(() => () => {});
const pgPool = new Pool({ connectionString, max: 34 });
pgPool.on("error", () => {});

const preset = { worker: { concurrentJobs: 24, pollInterval: 2000, maxPoolSize: 34, schema: "graphile_worker" } };
if (mode === "batched") {
  preset.worker.localQueue = { size: 500 };
  preset.worker.completeJobBatchDelay = 0;
  preset.worker.failJobBatchDelay = 0;
}

const utils = await makeWorkerUtils({ pgPool, logger });
await utils.migrate();

async function throughput(count) {
  await pgPool.query(
    "select graphile_worker.add_jobs(array_agg(json_populate_record(null::graphile_worker.job_spec," +
      " json_build_object('identifier', 'noop', 'payload', json_build_object('n', i)))))" +
      " from generate_series(1, $1::integer) as i",
    [count],
  );
  await pgPool.query("vacuum analyze graphile_worker._private_jobs");
  let done = 0;
  let end;
  const ended = new Promise((resolve) => (end = resolve));
  const began = process.hrtime.bigint();
  const runner = await run({
    pgPool,
    logger,
    noHandleSignals: true,
    preset,
    taskList: { noop: () => void (++done === count && end()) },
  });
  await ended;
  // A job is done when its row is gone, durably.
  for (;;) {
    const { rows } = await pgPool.query("select 1 from graphile_worker._private_jobs limit 1");
    if (rows.length === 0) break;
  }
  const seconds = Number(process.hrtime.bigint() - began) / 1e9;
  await runner.stop();
  console.log(count / seconds);
}

async function latency(count) {
  const times = [];
  let next;
  const runner = await run({ pgPool, logger, noHandleSignals: true, preset, taskList: { noop: () => next() } });
  for (let i = 0; i < count + 20; i++) {
    const started = new Promise((resolve) => (next = resolve));
    const began = process.hrtime.bigint();
    await utils.addJob("noop", {});
    await started;
    if (i >= 20) times.push(Number(process.hrtime.bigint() - began) / 1e6);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  await runner.stop();
  console.log(JSON.stringify(times));
}

if (what.startsWith("latency")) await latency(Number(what.slice(7) || 500));
else await throughput(Number(what));
await utils.release();
await pgPool.end();
process.exit(0);
