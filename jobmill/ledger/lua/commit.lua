-- A launch is known to its system: ARGV = then 7 values a job: launch, run, fence, state, handle, native id, poll in (ms).
-- Answer an entry: 'ok', the wish that stands, or 'stale' (kill what you started). An end that came first is 'ended'.
-- A launch has one handle: the first that is committed. Another one of the same launch (accepted twice) is 'stale'.
local n, told = #ARGV / 7, {}
adds()
bundle()
local NEEDED = { 'state', 'run', 'fence', 'system', 'score', 'handle', 'wish' }

local function another(j, handle) -- was a different handle committed for this very launch?
  if handle == '' or j.state == 'starting' or j.handle == handle then return false end
  return call('HGET', j.key, 'committed') == j.run .. ':' .. j.fence
end

for e = 1, n do
  local a = (e - 1) * 7
  local j = job_of(ARGV[a + 1], NEEDED)
  local run, fence, state = ARGV[a + 2], ARGV[a + 3], ARGV[a + 4]
  if not j or j.run ~= run or j.fence ~= fence then told[e] = 'stale'
  elseif ENDED[j.state] then told[e] = 'ended'
  elseif not LAUNCHED[j.state] then told[e] = 'stale'
  elseif another(j, ARGV[a + 5]) then told[e] = 'stale'
  else
    local handle, native = ARGV[a + 5], ARGV[a + 6]
    local fields = handle ~= '' and { 'committed', j.run .. ':' .. j.fence } or {}
    if j.state == 'starting' or (j.state == 'unknown' and can(j, state)) then -- sent again it must not undo a poll's news
      if handle ~= '' then fields[#fields + 1] = 'handle'; fields[#fields + 1] = handle end
      if native ~= '' then fields[#fields + 1] = 'native'; fields[#fields + 1] = native end
      call('HSET', j.key, 'state', state, unpack(fields))
      if state == 'running' then call('HSETNX', j.key, 'started', NOW) end
      unindex(j)
      zadd(P .. 'Running_Queue' .. lane(j.system), j.wish and 0 or NOW + ARGV[a + 7], j.id)
      if j.wish then call('RPUSH', P .. 'Exit_Queue' .. lane(j.system), '') end -- there is something to kill
      note(j, state)
    else -- a poll knew of it first
      if handle ~= '' then
        call('HSETNX', j.key, 'handle', handle)
        call('HSET', j.key, unpack(fields))
      end
      if native ~= '' then call('HSETNX', j.key, 'native', native) end
    end
    told[e] = j.wish or 'ok'
  end
end
publish()
return told
