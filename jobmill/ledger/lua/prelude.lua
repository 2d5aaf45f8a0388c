-- What every script stands on. KEYS[1] is <prefix>Record: it routes the script in a cluster and carries the prefix.
-- CAN, ENDED, POLLED, LAUNCHED are written in front of this text from jobs/states.py.
local call = redis.call
local P = KEYS[1]:sub(1, #KEYS[1] - 6)
local TIME = call('TIME')
local NOW = TIME[1] * 1000 + math.floor(TIME[2] / 1000) -- milliseconds
local changes = {}
local lanes = {}

local function lane(system) -- the suffix of the queues that serve a system
  if not lanes[system] then
    local name = call('HGET', P .. 'Lanes', system)
    lanes[system] = (name and name ~= '') and (':' .. name) or ''
  end
  return lanes[system]
end

local FIELDS = { 'state', 'run', 'fence', 'system', 'user', 'score', 'needs', 'holds', 'full', 'blocked', 'owner',
  'handle', 'wish', 'notify', 'tags', 'progress' }

local function read(id, fields) -- the job's record as a table (of these fields), or nil where there is none
  fields = fields or FIELDS
  local v = call('HMGET', P .. 'Job:' .. id, unpack(fields))
  if not v[1] then return nil end
  local j = { id = id, key = P .. 'Job:' .. id }
  for i, name in ipairs(fields) do if v[i] then j[name] = v[i] end end
  j.run, j.fence = j.run or '1', j.fence or '0' -- not written before the first grant
  return j
end

local SPAN = 4398046511104 -- 2^42: a score is the arrival under which its job was admitted, less its priority times this

local function arrival_of(score) -- tells a job from an earlier one of its id, whose record was pruned
  return string.format('%.0f', tonumber(score) % SPAN)
end

local function launch_of(name) -- the id and, where it is known, the arrival of a launch that is named id@arrival, or id
  local id, arrival = name:match('^([^@]*)@(%d+)$')
  return id or name, arrival
end

local function job_of(name, fields) -- `read` of a launch's job; of these fields one is the score; nil: the id lives anew
  local id, arrival = launch_of(name)
  local j = read(id, fields)
  if j and arrival and arrival_of(j.score) ~= arrival then return nil end
  return j
end

-- A full server (maxmemory, noeviction) decides by a script's first write: refused, the whole script is refused and has
-- changed nothing; let through, all that follows is let through. Both first writes change nothing.
local function adds() call('ZADD', P .. 'Later', 'XX', 0, '') end -- what adds to the record is refused whole
local function frees() call('ZREM', P .. 'Later', '') end -- what brings an end nearer goes through

local function can(j, to) return CAN[j.state] and CAN[j.state][to] end

local function note(j, state, run) changes[#changes + 1] = j.id .. ' ' .. state .. ' ' .. (run or j.run) end

-- Indexes and sets change at once; after `bundle` at the script's end, by one command a key. Of two changes of one
-- member the last one counts. Who bundles must not read a key that it has changed.
local bundled, order = nil, {}

local function bundle() bundled = {} end

local function change(kind, key, member, value)
  local of = bundled[key]
  if not of then
    of = { kind = kind, members = {} }
    bundled[key] = of
    order[#order + 1] = key
  end
  of.members[member] = value
end

local function zadd(key, score, member)
  if bundled then change('Z', key, member, score) else call('ZADD', key, score, member) end
end

local function zrem(key, member)
  if bundled then change('Z', key, member, false) else call('ZREM', key, member) end
end

local function srem(key, member)
  if bundled then change('S', key, member, false) else call('SREM', key, member) end
end

local function many(command, key, list) -- one command, or several where the list is longer than Lua's stack
  for i = 1, #list, 2000 do call(command, key, unpack(list, i, math.min(i + 1999, #list))) end
end

local function settle() -- make the bundled changes
  for _, key in ipairs(order) do
    local of, out, into = bundled[key], {}, {}
    for member, value in pairs(of.members) do
      if value then into[#into + 1] = value; into[#into + 1] = member else out[#out + 1] = member end
    end
    many(of.kind == 'Z' and 'ZREM' or 'SREM', key, out)
    many('ZADD', key, into)
  end
  if bundled then bundled, order = {}, {} end
end

local function publish() -- last; one entry a batch, capped: lossy by design, the hash is the truth
  settle()
  if #changes > 0 then
    call('XADD', P .. 'Events', 'MAXLEN', '~', 500, '*', 'time', NOW, 'changes', table.concat(changes, '\n'))
  end
end

local function unindex(j) -- out of the one key that follows from the state (law 1); always a ZREM
  local s = j.state
  if s == 'waiting' then
    if j.full then zrem(P .. 'Full:' .. j.full, j.id)
    elseif tonumber(j.blocked or 0) > 0 then zrem(P .. 'Blocked', j.id)
    else zrem(P .. 'Waiting:' .. j.system .. ':' .. j.user, j.id) end
  elseif s == 'held' then zrem(P .. 'Jobs:held', j.id)
  elseif s == 'later' then zrem(P .. 'Later', j.id)
  elseif s == 'starting' then zrem(P .. 'Starting_Queue' .. lane(j.system), j.id)
  elseif POLLED[s] then zrem(P .. 'Running_Queue' .. lane(j.system), j.id)
  elseif ENDED[s] then
    zrem(P .. 'Jobs:' .. s, j.id)
    for tag in (j.tags or ''):gmatch('%S+') do zrem(P .. 'Jobs:by-tag:' .. tag, j.id) end
  end
end

local ranked = {} -- users who are known to stand in line

local function line_up(j) -- into the line of its user; a user who returns starts at the lowest rank present
  local ranks = P .. 'Waiting:' .. j.system
  local mine = ranks .. ':' .. j.user
  if not ranked[mine] and not call('ZSCORE', ranks, j.user) then
    local first = call('ZRANGE', ranks, 0, 0, 'WITHSCORES')
    call('ZADD', ranks, first[2] or 0, j.user)
  end
  ranked[mine] = true
  zadd(mine, j.score, j.id)
end

local function wait(j) -- waiting: behind its dependencies, or in line
  if tonumber(j.blocked or 0) > 0 then zadd(P .. 'Blocked', NOW, j.id) else line_up(j) end
end

local function leave_sets(j) -- give back what `holds` says, and only this
  for token in (j.holds or ''):gmatch('%S+') do
    local name, amount = token:match('^(.+)=(%d+)$')
    if amount then call('HINCRBY', P .. 'Used', name, -amount) else srem(P .. token, j.id) end
  end
end

local function release(j)
  if not j.holds then return end
  leave_sets(j)
  call('HDEL', j.key, 'holds')
end

local function ring(j) -- tell the managers: room again, or somebody waits for this job
  if call('EXISTS', P .. 'Job:' .. j.id .. ':dependents') == 1 then return true end
  return false
end

local function index_end(j, state)
  zadd(P .. 'Jobs:' .. state, NOW, j.id)
  for tag in (j.tags or ''):gmatch('%S+') do zadd(P .. 'Jobs:by-tag:' .. tag, NOW, j.id) end
  for event in (j.notify or ''):gmatch('%S+') do
    if event == state or event == 'ended' then zadd(P .. 'Outbox', NOW, j.id .. ':' .. j.run .. ':' .. state) end
  end
end

local function finish(j, state, exit) -- law 8: one script leaves the queue, frees, ends, notifies and tells
  unindex(j)
  leave_sets(j)
  if j.full or j.progress then call('HDEL', j.key, 'full', 'progress', 'exited', 'exited_at') end
  call('HSET', j.key, 'state', state, 'exit', exit, 'ended', NOW, 'holds', '', 'owner', '')
  index_end(j, state)
  note(j, state)
end

local function without_spec(j, state) -- ends what nobody can run: its spec was deleted by hand
  finish(j, state, cjson.encode({ exit_status = 'aborted_before_running', reason = 'spec_missing', evidence = 'record',
    message = 'its spec is gone from the record (Spec:' .. j.id .. '), which nothing but a person takes away; ' ..
      'submit the job again under another id' }))
end

local function alive(process) -- a process that was declared dead acts no more
  local v = call('HMGET', P .. 'Process:' .. process, 'role', 'evicted')
  return v[1] and not v[2]
end

local function turn(process, queue, expected) -- 'now': ours to apply; 'again': applied before; else refused
  local had = tonumber(call('HGET', P .. 'Process:' .. process, 'turn:' .. queue) or 0)
  if had == tonumber(expected) then return 'now' end
  if had == tonumber(expected) + 1 then return 'again' end
  return nil
end
