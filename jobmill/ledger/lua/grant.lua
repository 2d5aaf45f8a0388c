-- Grants: ARGV = system, its set, at most how many. All the sets of a job or none (law 1); fair share among users by
-- rank. Where the system has slots, it is granted beyond them only what lately started within 50 ms, at most 64.
-- Nothing is granted to a system that does not answer, until its next try is due.
-- Answer: {granted, room left in the set, users with jobs in line}.
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

-- What was full and has room again returns to its line: as many as there is room for, the first in order.
for _, name in ipairs(call('SRANDMEMBER', P .. 'Full', 50)) do
  local full = P .. 'Full:' .. name
  local top = tonumber(call('HGET', P .. 'Capacity', name) or '') or math.huge
  local room = top - (tonumber(call('HGET', P .. 'Used', name) or 0) + call('SCARD', P .. name))
  local skip = 0
  while room > 0 and steps > 0 do
    steps = steps - 1
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
      if j and j.full == name then
        call('HDEL', j.key, 'full')
        line_up(j)
      end
    end
  end
  if call('EXISTS', full) == 0 then call('SREM', P .. 'Full', name) end
end

local word = call('HGET', P .. 'Endpoints', system)
if word and tonumber(word:match('^%d+') or 0) > NOW then n = 0 end

local granted, queue = 0, P .. 'Granted_Queue' .. lane(system)
local top = slots and math.min(limit, slots + ahead) or limit
local lines = {}
while granted < n and used < top and steps > 0 do
  steps = steps - 1
  local user = call('ZRANGE', ranks, 0, 0)[1]
  if not user then break end
  local mine = ranks .. ':' .. user
  local id = call('ZRANGE', mine, 0, 0)[1]
  local j = id and read(id)
  if not id then
    call('ZREM', ranks, user)
  elseif not j or j.state ~= 'waiting' then
    call('ZREM', mine, id) -- an index entry that nothing stands behind
  else
    local full, plain = nil, true
    for token in j.needs:gmatch('%S+') do
      local name, amount = token:match('^(.+)=(%d+)$')
      name = name or token
      if name ~= set then
        plain = false
        local most = tonumber(call('HGET', P .. 'Capacity', name) or '')
        local held = amount and tonumber(call('HGET', P .. 'Used', name) or 0) or call('SCARD', P .. name)
        if most then
          local wants, first = tonumber(amount or 1), head(name, most)
          if held + wants > most or (first and first < tonumber(j.score)) then full = name; break end
        end
      end
    end
    if full then
      call('HSET', j.key, 'full', full)
      call('ZREM', mine, id)
      call('ZADD', P .. 'Full:' .. full, j.score, id)
      call('SADD', P .. 'Full', full)
      heads[full] = nil
    elseif slots and not plain and used >= slots then
      break -- what holds amounts or named sets is never granted ahead of a slot
    else
      local fence = call('HINCRBY', j.key, 'fence', 1)
      call('HSET', j.key, 'state', 'granted', 'holds', j.needs, 'granted', NOW)
      call('ZREM', mine, id)
      for token in j.needs:gmatch('%S+') do
        local name, amount = token:match('^(.+)=(%d+)$')
        if amount then call('HINCRBY', P .. 'Used', name, amount) else call('SADD', P .. token, id) end
      end
      call('ZINCRBY', ranks, 1, user)
      lines[#lines + 1] = '{"id":"' .. id .. '","fence":' .. fence .. ',"run":' .. j.run .. ',"system":"' .. system ..
        '","spec":' .. call('GET', P .. 'Spec:' .. id) .. '}'
      note(j, 'granted')
      granted = granted + 1
      used = used + 1
    end
  end
end
if #lines > 0 then call('RPUSH', queue, unpack(lines)) end
publish()
return { granted, limit - used, call('ZCARD', ranks) }
