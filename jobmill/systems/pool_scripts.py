"""The changes of a launch in the pool's Redis, each one script: what follows a look is done in the same step.

A launch is the hash ``<prefix>run:<id>``; its `state` is held → queued → started → running → ended. From `started` on
it has an `owner`, drawn by the one task that took it, and `until`: the server's time (ms) to which its lease runs.
Two states stand beside this: `withdrawn`, which may be held anew, and `unknown`, what was committed and the server
has lost: nothing of it starts any more, and a lease after `until`, when that was found out, nothing of it is left.
Time is the server's alone. Every script gets the prefix as KEYS[1]; the keys beside the hash are made from it, so a
pool is one server, as RQ wants it.
"""

HEAD = """
local P = KEYS[1]
local function now() local t = redis.call('TIME'); return t[1] * 1000 + math.floor(t[2] / 1000) end
local function run(id) return P .. 'run:' .. id end
local function finish(id, record, word)
  local key = run(id)
  local f = redis.call('HMGET', key, 'record', 'ends', 'token')
  redis.call('HSET', key, 'state', 'ended', 'end', record)
  redis.call('HDEL', key, 'until')
  if f[1] then redis.call('SREM', P .. 'live:' .. f[1], id) end
  if f[2] and f[2] ~= '' then
    redis.call('RPUSH', f[2], cjson.encode({word, f[3], record}))
    redis.call('EXPIRE', f[2], 86400)
  end
  redis.call('DEL', P .. 'spec:' .. id, P .. 'ask:' .. id)
  redis.call('EXPIRE', key, 604800)
end
local function unstarted(state) return state == 'held' or state == 'queued' end
"""

# id, token, record, queue, list for notices, specification; six of each launch. A launch that is known stays as it is,
# but for one that was withdrawn.
HOLD = """
local said = {}
for i = 1, #ARGV, 6 do
  local id = ARGV[i]
  if redis.call('HGET', run(id), 'state') == 'withdrawn' then redis.call('DEL', run(id)) end
  if redis.call('HSETNX', run(id), 'state', 'held') == 1 then
    redis.call('HSET', run(id), 'token', ARGV[i+1], 'record', ARGV[i+2], 'queue', ARGV[i+3], 'ends', ARGV[i+4])
    redis.call('SET', P .. 'spec:' .. id, ARGV[i+5])
    redis.call('SADD', P .. 'live:' .. ARGV[i+2], id)
  end
  said[#said + 1] = redis.call('HGET', run(id), 'state')
end
return said
"""

# ids. What is held is queued from now on; RQ's part of it is in the same transaction.
RELEASE = """
for i = 1, #ARGV do
  if redis.call('HGET', run(ARGV[i]), 'state') == 'held' then redis.call('HSET', run(ARGV[i]), 'state', 'queued') end
end
return 1
"""

# id, owner, lease (ms), host, worker. The marker: one owner for ever. Returns ok and the specification, or why not.
TAKE = """
local id = ARGV[1]
local f = redis.call('HMGET', run(id), 'state', 'owner')
if not f[1] then return {'gone'} end
if f[2] ~= ARGV[2] then
  if f[1] ~= 'queued' then return {f[1]} end
  redis.call('HSET', run(id), 'state', 'started', 'owner', ARGV[2], 'host', ARGV[4], 'worker', ARGV[5])
elseif f[1] == 'ended' then
  return {f[1]}
end
redis.call('HSET', run(id), 'until', now() + ARGV[3])
return {'ok', redis.call('GET', P .. 'spec:' .. id), redis.call('HGET', run(id), 'token')}
"""

# id, owner, lease (ms), progress. Prolongs the lease of a launch that nobody has given up; returns the wish to kill it.
BEAT = """
local id = ARGV[1]
local f = redis.call('HMGET', run(id), 'state', 'owner', 'kill')
if f[2] ~= ARGV[2] or f[1] == 'ended' then return -1 end
redis.call('HSET', run(id), 'until', now() + ARGV[3])
if ARGV[4] ~= '' then redis.call('HSET', run(id), 'progress', ARGV[4]) end
return tonumber(f[3] or '0')
"""

# id, owner, pid
RUNS = """
local id = ARGV[1]
local f = redis.call('HMGET', run(id), 'state', 'owner', 'ends', 'token', 'host')
if f[2] ~= ARGV[2] or f[1] == 'ended' then return 0 end
redis.call('HSET', run(id), 'state', 'running', 'pid', ARGV[3])
if f[1] == 'started' and f[3] ~= '' then
  redis.call('RPUSH', f[3], cjson.encode({'start', f[4], ARGV[3], f[5]}))
  redis.call('EXPIRE', f[3], 86400)
end
return 1
"""

# id, owner, exit record, what is left of its files. Of its owner alone, and only once; the same again is the same.
END = """
local id = ARGV[1]
local f = redis.call('HMGET', run(id), 'state', 'owner', 'end')
if f[2] ~= ARGV[2] then return 0 end
if f[1] == 'ended' then return f[3] == ARGV[3] and 1 or 0 end
redis.call('HSET', run(id), 'left', ARGV[4])
finish(id, ARGV[3], 'end')
return 1
"""

# id, slack (ms), exit record. A launch whose lease ran out long enough ago to be over wherever it was.
GIVE_UP = """
local id = ARGV[1]
local f = redis.call('HMGET', run(id), 'state', 'until')
if not f[2] or (f[1] ~= 'started' and f[1] ~= 'running') or f[2] + ARGV[2] >= now() then return 0 end
finish(id, ARGV[3], 'end')
return 1
"""

# exit record, then id and token of each launch. What has not started never will. Returns sealed, or the state. One that
# is not there was never submitted where a token is given; without one it was, and may have started: unknown.
SEAL = """
local said = {}
for i = 2, #ARGV, 2 do
  local id = ARGV[i]
  local f = redis.call('HMGET', run(id), 'state', 'sealed')
  if not f[1] and ARGV[i+1] == '' then
    redis.call('HSET', run(id), 'state', 'unknown', 'until', now())
    redis.call('EXPIRE', run(id), 604800)
    f[1] = 'unknown'
  elseif not f[1] or f[1] == 'withdrawn' then
    redis.call('HSET', run(id), 'state', 'ended', 'sealed', 1, 'end', ARGV[1])
    if ARGV[i+1] ~= '' then redis.call('HSET', run(id), 'token', ARGV[i+1]) end
    redis.call('EXPIRE', run(id), 86400)
    f[2] = '1'
  elseif unstarted(f[1]) then
    redis.call('HSET', run(id), 'sealed', 1)
    finish(id, ARGV[1], 'end')
    f[2] = '1'
  end
  said[#said + 1] = f[2] and 'sealed' or f[1]
end
return said
"""

# ids. As if they had never been submitted; told as ends with the record that comes first.
WITHDRAW = """
local said = {}
for i = 2, #ARGV do
  local id = ARGV[i]
  if unstarted(redis.call('HGET', run(id), 'state')) then
    finish(id, ARGV[1], 'end')
    redis.call('HDEL', run(id), 'end')
    redis.call('HSET', run(id), 'state', 'withdrawn', 'sealed', 1)
    said[#said + 1] = id
  end
end
return said
"""

# id, most. Counts how often RQ was given a launch again; 0: often enough, or it has started meanwhile.
AGAIN = """
if redis.call('HGET', run(ARGV[1]), 'state') ~= 'queued' then return 0 end
return redis.call('HINCRBY', run(ARGV[1]), 'again', 1) <= tonumber(ARGV[2]) and 1 or 0
"""

# key of RQ's jobs without the id, then ids. One row for each: the server's time (ms), fields, RQ's own status.
LOOK = """
local rows, at = {}, now()
for i = 2, #ARGV do
  local f = redis.call('HMGET', run(ARGV[i]), 'state', 'queue', 'host', 'until', 'pid', 'progress', 'worker', 'sealed')
  for k = 1, 8 do f[k] = f[k] or '' end
  f[9] = f[1] == 'queued' and (redis.call('HGET', ARGV[1] .. ARGV[i], 'status') or '') or ''
  f[10] = tostring(at)
  rows[#rows + 1] = f
end
return rows
"""

# level (1: TERM, 2: KILL), then ids. A wish that stands, and a nudge to whoever can see to it.
KILL = """
for i = 2, #ARGV do
  local f = redis.call('HMGET', run(ARGV[i]), 'state', 'kill')
  if f[1] == 'started' or f[1] == 'running' then
    if tonumber(f[2] or '0') < tonumber(ARGV[1]) then redis.call('HSET', run(ARGV[i]), 'kill', ARGV[1]) end
    redis.call('RPUSH', P .. 'ask:' .. ARGV[i], '["kill",' .. ARGV[1] .. ']')
    redis.call('EXPIRE', P .. 'ask:' .. ARGV[i], 3600)
  end
end
return 1
"""
