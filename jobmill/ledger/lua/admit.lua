-- Admission of the head of the private list: ARGV = process, queue, turn, then 12 values an entry:
--   'job', id, spec, system, user, name, priority, needs ('' only the system's set), place, due (ms), dependencies, extras (JSON: tags, notify, after)
--   'dead', header (one line of JSON), id ('' unknown), and nine empty ones
-- Answer: a word an entry: admitted | same | cancelled | not_run | dead. {'again'} where this turn was applied before.
local process, queue = ARGV[1], ARGV[2]
if not alive(process) then return redis.error_reply('EVICTED ' .. process) end
local t = turn(process, queue, ARGV[3])
if t ~= 'now' then return { t or 'refused' } end
adds()
local mine = P .. queue .. ':taken:' .. process
local n = (#ARGV - 3) / 12
call('HINCRBY', P .. 'Process:' .. process, 'turn:' .. queue, 1)
local arrival = call('INCRBY', P .. 'Arrivals', n) - n
local ends, told, last = {}, {}, nil
local known, specs = {}, {} -- id -> the spec that stands under it; what is to be written
bundle()
do
  local keys, ids = {}, {}
  for e = 1, n do
    local a = 3 + (e - 1) * 12
    if ARGV[a + 1] ~= 'dead' then
      ids[#ids + 1] = ARGV[a + 2]
      keys[#keys + 1] = P .. 'Spec:' .. ARGV[a + 2]
      keys[#keys + 1] = P .. 'Wish:' .. ARGV[a + 2]
    end
  end
  local found = #keys > 0 and call('MGET', unpack(keys)) or {}
  for i, id in ipairs(ids) do known[id] = { spec = found[2 * i - 1], wish = found[2 * i] } end
end

local function verdict(after, state) -- is a dependency that ended like this what was waited for?
  if after == 'any' then return true end
  if after == 'failed' then return state == 'failed' or state == 'lost' end
  return state == 'done'
end

local LARGE = 65536 -- bytes of a spec that a grant must know beforehand: 250 smaller ones are 16 MB at most

local near = {} -- how ids begin -> were they drawn now?
local function dated(id) -- does the id itself tell the moment (jobs/identifier.py)? It is not written then, to save memory
  if #id ~= 17 then return false end
  local begin = id:sub(1, 7)
  if near[begin] == nil then
    local units = (('abcdefghjkmnpqrstvwxyz'):find(id:sub(1, 1), 1, true) or 0) - 1 -- of 1024 ms
    for i = 2, 7 do
      local digit = ('0123456789abcdefghjkmnpqrstvwxyz'):find(id:sub(i, i), 1, true)
      units = (digit and units >= 0) and units * 32 + digit - 1 or -1
    end
    near[begin] = math.abs(NOW / 1024 - units) < 5
  end
  return near[begin]
end

for e = 1, n do
  local a = 3 + (e - 1) * 12
  local raw = nil
  if ARGV[a + 1] == 'dead' then
    raw = call('LINDEX', mine, e - 1)
    call('RPUSH', P .. 'Dead_Queue', ARGV[a + 2] .. '\n' .. raw)
    told[e] = 'dead'
    if ARGV[a + 3] ~= '' then note({ id = ARGV[a + 3] }, 'refused', 0) end
  else
    local id, spec = ARGV[a + 2], ARGV[a + 3]
    local had = known[id].spec
    if had == spec then
      told[e] = 'same'
    elseif had then
      raw = call('LINDEX', mine, e - 1)
      call('RPUSH', P .. 'Dead_Queue', cjson.encode({ reason = 'id: ' .. id .. ' is taken by another job; ' ..
        'give this one its own id, or leave `id` out', id = id, time = NOW / 1000, queue = queue }) .. '\n' .. raw)
      told[e] = 'dead'
      note({ id = id }, 'refused', 0)
    else
      local j = { id = id, key = P .. 'Job:' .. id, run = '1', fence = '0', system = ARGV[a + 4], user = ARGV[a + 5],
        score = arrival + e - tonumber(ARGV[a + 7]) * SPAN, state = ARGV[a + 9] }
      j.score = string.format('%.0f', j.score)
      local fields = { 'state', j.state, 'system', j.system, 'user', j.user, 'score', j.score }
      if not dated(id) then fields[#fields + 1] = 'since'; fields[#fields + 1] = TIME[1] end
      if #spec > LARGE then fields[#fields + 1] = 'large'; fields[#fields + 1] = #spec end
      if ARGV[a + 8] ~= '' then fields[#fields + 1] = 'needs'; fields[#fields + 1] = ARGV[a + 8] end
      if ARGV[a + 6] ~= '' then fields[#fields + 1] = 'name'; fields[#fields + 1] = ARGV[a + 6] end
      local extras = ARGV[a + 12] ~= '' and cjson.decode(ARGV[a + 12]) or {}
      for name, value in pairs(extras) do
        fields[#fields + 1] = name; fields[#fields + 1] = value; j[name] = value
      end
      local fate = nil
      if ARGV[a + 11] ~= '' then
        local blocked, named = 0, {}
        for dependency in ARGV[a + 11]:gmatch('%S+') do
          local state = call('HGET', P .. 'Job:' .. dependency, 'state')
          if state and ENDED[state] then
            if not verdict(j.after, state) then fate = fate or { dependency, state } end
          elseif not named[dependency] then -- named twice it is still one: it is resolved once
            named[dependency] = true
            blocked = blocked + 1
            call('SADD', P .. 'Job:' .. dependency .. ':dependents', id)
          end
        end
        if blocked > 0 then
          j.blocked = blocked
          fields[#fields + 1] = 'blocked'; fields[#fields + 1] = blocked
        end
        fields[#fields + 1] = 'depends'; fields[#fields + 1] = ARGV[a + 11]
      end
      call('HSET', j.key, unpack(fields))
      specs[#specs + 1] = P .. 'Spec:' .. id
      specs[#specs + 1] = spec
      known[id].spec = spec
      last = id
      local wish = known[id].wish
      if wish or fate then
        local exit = wish and { exit_status = 'aborted_before_running', reason = 'cancelled', evidence = 'wish',
            message = wish }
          or { exit_status = 'aborted_before_running', reason = 'dependency_failed', evidence = 'record',
            message = 'it depends on ' .. fate[1] .. ', which ended ' .. fate[2] }
        j.state = 'admitting'
        if wish then call('HSET', j.key, 'wish', wish); call('UNLINK', P .. 'Wish:' .. id) end
        told[e] = wish and 'cancelled' or 'not_run'
        finish(j, told[e], cjson.encode(exit))
        if ring(j) then ends[#ends + 1] = id end
      else
        if j.state == 'held' then zadd(P .. 'Jobs:held', NOW, id)
        elseif j.state == 'later' then zadd(P .. 'Later', ARGV[a + 10], id)
        else wait(j) end
        note(j, j.state)
        told[e] = 'admitted'
      end
    end
  end
end
if #specs > 0 then call('MSET', unpack(specs)) end
if n >= call('LLEN', mine) then call('UNLINK', mine) else call('LTRIM', mine, n, -1) end
if last then call('SET', P .. 'Last', last) end
if #ends > 0 then call('RPUSH', P .. 'Result_Queue', unpack(ends)) end
publish()
return told
