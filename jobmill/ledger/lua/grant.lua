-- Grants: ARGV = system, its set, at most how many. All the sets of a job or none (law 1); fair share among users by
-- rank. Where the system has slots, it is granted beyond them only what lately started within 50 ms, at most 64.
-- Nothing is granted to a system that does not answer, until its next try is due.
-- A job whose spec is gone (deleted by hand) ends not_run. A call grants 16 MB of large specs, or one of them.
-- Answer: {granted, room left in the set, users with jobs in line, 1 where it ended for the size of the specs}.
local system, set, n = ARGV[1], ARGV[2], tonumber(ARGV[3])
adds()
local slots = tonumber(call('HGET', P .. 'Capacity', system .. '.slots') or '')
local pace = tonumber(call('HGET', P .. 'Pace', system) or '')
local ahead = (slots and pace) and math.min(64, math.floor(slots * 50 / math.max(pace, 0.5))) or 0
local steps = 500 -- bounds the work of one call, whatever has to be moved aside
local limit = tonumber(call('HGET', P .. 'Capacity', set) or 0) -- a system without a limit is closed
local used = call('SCARD', P .. set)
local ranks = P .. 'Waiting:' .. system

local function need(j, name) -- how much of a set or amount a job takes
  for token in (j and j.needs or ''):gmatch('%S+') do
    local known, amount = token:match('^(.+)=(%d+)$')
    if known == name then return tonumber(amount) end
  end
  return 1
end

local heads = {} -- set -> {score} of the first in Full:<set> that can ever fit, {} where there is none
local function head(name, top)
  if not heads[name] then
    heads[name] = {}
    local line = call('ZRANGE', P .. 'Full:' .. name, 0, 9, 'WITHSCORES')
    for i = 1, #line, 2 do
      if need(read(line[i]), name) <= top then heads[name] = { tonumber(line[i + 1]) }; break end
    end
  end
  return heads[name][1]
end

local counted = {} -- set or amount -> how much of it is held, with what is granted here

local looks = 250 -- bounds it, whatever stands there
local function come_back() -- what was full and has room again, to its line: as many as fit, the first in order
  for _, name in ipairs(call('SRANDMEMBER', P .. 'Full', 50)) do
    local full = P .. 'Full:' .. name
    local top = tonumber(call('HGET', P .. 'Capacity', name) or '') or math.huge
    local room = top - (counted[name] or tonumber(call('HGET', P .. 'Used', name) or 0) + call('SCARD', P .. name))
    local skip = 0
    while room > 0 and looks > 0 and skip < 10 do
      looks = looks - 1
      local id = call('ZRANGE', full, skip, skip)[1]
      if not id then break end
      local j = read(id)
      local wants = need(j, name)
      if wants > top then
        skip = skip + 1 -- can never fit as the limit is now: reserves nothing
      elseif wants > room then
        break -- the first in order reserves: a large job does not starve
      else
        room = room - wants
        call('ZREM', full, id)
        heads[name] = nil
        if j and j.full == name then
          call('HDEL', j.key, 'full')
          line_up(j)
        end
      end
    end
    if call('EXISTS', full) == 0 then call('SREM', P .. 'Full', name) end
  end
end

local word = call('HGET', P .. 'Endpoints', system)
if word and tonumber(word:match('^%d+') or 0) > NOW then n = 0 end

local granted, queue = 0, P .. 'Granted_Queue' .. lane(system)
local top = slots and math.min(limit, slots + ahead) or limit

-- The users in line, lowest rank first: a page at a time, from which the lowest is taken again and again. Whoever is not
-- on the page comes after `bound`, the last of a full page as it was read.
local PAGE = 20
local users, bound = {}, nil

local function before(a, b) return a.rank < b.rank or (a.rank == b.rank and a.name < b.name) end

local function put_back() -- write down what was taken from the page
  for _, u in ipairs(users) do
    if #u.gone > 0 then call('ZREM', ranks .. ':' .. u.name, unpack(u.gone)) end
    if u.empty then
      call('ZREM', ranks, u.name)
      ranked[ranks .. ':' .. u.name] = nil
    elseif u.turns > 0 then
      call('ZADD', ranks, u.rank, u.name)
    end
  end
  users = {}
end

local function page()
  put_back()
  local found = call('ZRANGE', ranks, 0, PAGE - 1, 'WITHSCORES')
  for i = 1, #found, 2 do
    users[#users + 1] = { name = found[i], rank = tonumber(found[i + 1]), turns = 0, gone = {}, line = {}, at = 1 }
  end
  bound = #users == PAGE and { name = users[PAGE].name, rank = users[PAGE].rank } or nil
end

local function lowest() -- the user whose turn it is
  local best = nil
  for _, u in ipairs(users) do if not u.empty and (not best or before(u, best)) then best = u end end
  if bound and (not best or before(bound, best)) then
    page()
    return users[1]
  end
  return best
end

local function first(u) -- the first job of a user's line, which has not been taken
  if not u.line[u.at] then
    if #u.gone > 0 then call('ZREM', ranks .. ':' .. u.name, unpack(u.gone)) end
    u.gone, u.at = {}, 1
    u.line = call('ZRANGE', ranks .. ':' .. u.name, 0, math.max(0, math.min(n - granted, 50) - 1))
    local keys = {}
    for i, id in ipairs(u.line) do keys[i] = P .. 'Spec:' .. id end
    u.whole = #keys == 0 or call('EXISTS', unpack(keys)) == #keys -- each of them has its spec
  end
  return u.line[u.at]
end

local function pass(u) -- the first is out of the line
  u.gone[#u.gone + 1] = u.line[u.at]
  u.at = u.at + 1
end

local function held(name, amount)
  if not counted[name] then
    counted[name] = amount and tonumber(call('HGET', P .. 'Used', name) or 0) or call('SCARD', P .. name)
  end
  return counted[name]
end

local MOST = 16 * 1024 * 1024 -- bytes of large specs: all of them are in memory several times while the entries are written
local size, cut = 0, 0
local into, amounts, jobs, rung = {}, {}, {}, {}
local function go() -- grant; return whether a job was set aside, before which another one had stood back
  local aside = false
  if granted < n and used < top then page() end
  while granted < n and used < top and steps > 0 do
    steps = steps - 1
    local u = lowest()
    if not u then break end
    local id = first(u)
    local v = id and call('HMGET', P .. 'Job:' .. id, 'state', 'run', 'fence', 'needs', 'score', 'large')
    if not id then
      u.empty = true
    elseif v[1] ~= 'waiting' then
      pass(u) -- an index entry that nothing stands behind
    else
      local full, plain, tokens, run, needs = nil, true, {}, v[2] or '1', v[4] or set
      for token in needs:gmatch('%S+') do
        local name, amount = token:match('^(.+)=(%d+)$')
        name = name or token
        tokens[#tokens + 1] = { name, amount }
        if name ~= set then
          plain = false
          local most = tonumber(call('HGET', P .. 'Capacity', name) or '')
          if most then
            local wants, earliest = tonumber(amount or 1), head(name, most)
            if held(name, amount) + wants > most or (earliest and earliest < tonumber(v[5])) then full = name; break end
          end
        end
      end
      if full then
        call('HSET', P .. 'Job:' .. id, 'full', full)
        call('ZADD', P .. 'Full:' .. full, v[5], id)
        call('SADD', P .. 'Full', full)
        heads[full] = nil
        aside = true
        pass(u)
      elseif slots and not plain and used >= slots then
        break -- what holds amounts or named sets is never granted ahead of a slot
      else
        local bytes = tonumber(v[6] or 0) -- the others are small: a batch of them is never cut
        if not u.whole and call('EXISTS', P .. 'Spec:' .. id) == 0 then
          local j = read(id)
          without_spec(j, 'not_run')
          if ring(j) then rung[#rung + 1] = id end
          pass(u)
        elseif granted > 0 and size + bytes > MOST then
          cut = 1
          break
        else
          size = size + bytes
          local fence = string.format('%.0f', tonumber(v[3] or 0) + 1)
          call('HSET', P .. 'Job:' .. id, 'state', 'granted', 'run', run, 'fence', fence, 'holds', needs,
            'granted', NOW)
          pass(u)
          u.rank, u.turns = u.rank + 1, u.turns + 1
          for _, token in ipairs(tokens) do
            local name, amount = token[1], token[2]
            if amount then
              amounts[name] = (amounts[name] or 0) + amount
              counted[name] = held(name, amount) + amount
            else
              if name ~= set then counted[name] = held(name) + 1 end
              into[name] = into[name] or {}
              into[name][#into[name] + 1] = id
            end
          end
          note({ id = id, run = run }, 'granted')
          granted = granted + 1
          used = used + 1
          jobs[granted] = { id, fence, run, arrival_of(v[5]) }
        end
      end
    end
  end
  put_back()
  return aside
end

repeat come_back() until not go() or steps <= 0
for name, ids in pairs(into) do call('SADD', P .. name, unpack(ids)) end
for name, amount in pairs(amounts) do call('HINCRBY', P .. 'Used', name, amount) end
if granted > 0 then
  local keys, lines = {}, {}
  for i, job in ipairs(jobs) do keys[i] = P .. 'Spec:' .. job[1] end
  local specs = call('MGET', unpack(keys))
  for i, job in ipairs(jobs) do
    lines[i] = '{"id":"' .. job[1] .. '","fence":' .. job[2] .. ',"run":' .. job[3] .. ',"arrival":' .. job[4] ..
      ',"system":"' .. system .. '","spec":' .. specs[i] .. '}'
  end
  call('RPUSH', queue, unpack(lines))
end
if #rung > 0 then call('RPUSH', P .. 'Result_Queue', unpack(rung)) end
publish()
return { granted, limit - used, call('ZCARD', ranks), cut }
