-- What a poll saw: ARGV = 5 values a job: launch, run, state ('' as it is), poll again in (ms; '' when it was due before,
-- for one that is polled with its endpoint), fields (JSON; an empty value removes one).
-- A launch that is still starting, and is to be left as it is ('' for both), has only its fields changed.
-- Answer: 'ok' | 'stale' a job.
local n, told = #ARGV / 5, {}
frees()

local function set(j, fields)
  if fields == '' then return end
  for name, value in pairs(cjson.decode(fields)) do
    if value == '' then call('HDEL', j.key, name)
    elseif value == 'now' then call('HSETNX', j.key, name, NOW)
    else call('HSET', j.key, name, value) end
  end
end

for e = 1, n do
  local a = (e - 1) * 5
  local j = job_of(ARGV[a + 1])
  local state, wait = ARGV[a + 3], ARGV[a + 4]
  local starting = j and j.state == 'starting' and state == '' and wait == ''
  if j and state == '' then state = j.state end
  if starting and j.run == ARGV[a + 2] then
    set(j, ARGV[a + 5])
    told[e] = 'ok'
  elseif not j or j.run ~= ARGV[a + 2] or not LAUNCHED[j.state] or not POLLED[state]
    or (state ~= j.state and not can(j, state)) then
    told[e] = 'stale'
  else
    if j.state == 'starting' then
      unindex(j)
      if wait == '' then wait = 0 end
    end
    if state ~= j.state then
      call('HSET', j.key, 'state', state)
      if state == 'running' then call('HSETNX', j.key, 'started', NOW) end
      note(j, state)
    end
    set(j, ARGV[a + 5])
    if wait ~= '' then
      -- a wish that came between the claim and this answer is not put off: the job stays due until its killing has begun
      local due = j.wish and call('HEXISTS', j.key, 'killed') == 0
      call('ZADD', P .. 'Running_Queue' .. lane(j.system), due and NOW or NOW + wait, j.id)
    end
    told[e] = 'ok'
  end
end
publish()
return told
