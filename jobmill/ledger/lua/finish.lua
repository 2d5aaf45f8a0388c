-- Ends of runs: ARGV = process, queue, turn ('' where no list stands behind), entries to drop from the private list,
-- then 7 values a job: launch, run, state, exit (JSON), retry in (ms; '' none), wall time (ms; '' unknown), and 'new' where
-- this holds only as long as nobody has committed the launch (from `starting` alone), 'unwished' where it holds only if
-- nobody wishes the job's end: else its whole tree has to be proved gone first, by a poll that is due now (law 7).
-- Any live state of the same run will do: an end may come before its commit (law 4). A retry belongs to the end of
-- its run (law 10): the record is kept, the job goes to `later` as the next run.
-- Answer: 'ended' | 'later' | 'again' (ended before) | 'wished' | 'stale' an entry.
local process, queue, turned, drop = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local n, told, rung = (#ARGV - 4) / 7, {}, {}
local walls, counts, systems = {}, {}, {}
frees()
bundle()
local NEEDED = { 'state', 'run', 'system', 'score', 'holds', 'wish', 'notify', 'tags', 'progress' }
local keys = {}
for e = 1, n do keys[e] = P .. 'Job:' .. launch_of(ARGV[5 + (e - 1) * 7]) .. ':dependents' end
local awaited = n > 0 and call('EXISTS', unpack(keys)) > 0 -- somebody waits for one of them at least
for e = 1, n do
  local a = 4 + (e - 1) * 7
  local j = job_of(ARGV[a + 1], NEEDED)
  if j and not LAUNCHED[j.state] then j = read(j.id) end -- to leave a line, more has to be known
  local state, exit, again = ARGV[a + 3], ARGV[a + 4], ARGV[a + 5]
  if not j or j.run ~= ARGV[a + 2] then
    told[e] = 'stale'
  elseif ENDED[j.state] then
    told[e] = 'again'
  elseif not can(j, state) or (ARGV[a + 7] == 'new' and j.state ~= 'starting') then
    told[e] = 'stale'
  elseif ARGV[a + 7] == 'unwished' and j.wish then
    unindex(j)
    zadd(P .. 'Running_Queue' .. lane(j.system), NOW, j.id)
    if can(j, 'collecting') then
      call('HSET', j.key, 'state', 'collecting')
      note(j, 'collecting')
    end
    told[e] = 'wished'
  else
    systems[j.system] = true
    if ARGV[a + 6] ~= '' then
      walls[j.system] = (walls[j.system] or 0) + ARGV[a + 6]
      counts[j.system] = (counts[j.system] or 0) + 1
    end
    if again ~= '' and not j.wish and can(j, 'later') then
      unindex(j)
      release(j)
      call('RPUSH', j.key .. ':runs', '{"run":' .. j.run .. ',"state":"' .. state .. '","time":' .. NOW / 1000 ..
        ',"exit":' .. exit .. '}')
      call('HDEL', j.key, 'owner', 'handle', 'started', 'native', 'progress', 'absent', 'killed', 'host', 'native_state',
        'full', 'exited', 'exited_at')
      call('HINCRBY', j.key, 'fence', 1)
      call('HSET', j.key, 'run', j.run + 1)
      call('HINCRBY', j.key, 'retries', 1)
      call('HSET', j.key, 'state', 'later', 'why', 'retry of a run that ended ' .. state)
      zadd(P .. 'Later', NOW + again, j.id)
      note(j, 'later', j.run + 1)
      told[e] = 'later'
    else
      finish(j, state, exit)
      if awaited and ring(j) then rung[#rung + 1] = j.id end
      told[e] = 'ended'
    end
  end
end
for system, wall in pairs(walls) do -- how long jobs take there lately: what `grant` may give out ahead of a slot
  local had = tonumber(call('HGET', P .. 'Pace', system) or '')
  local mean = wall / counts[system]
  local weight = math.min(1, counts[system] * 0.1)
  call('HSET', P .. 'Pace', system, string.format('%.2f', had and (had + (mean - had) * weight) or mean))
end
if #rung == 0 and call('LLEN', P .. 'Result_Queue') == 0 then -- room again: one ring, however many ends it stands for
  local waited = call('EXISTS', P .. 'Full') == 1
  for system in pairs(systems) do waited = waited or call('EXISTS', P .. 'Waiting:' .. system) == 1 end
  if waited then rung[1] = '' end
end
if #rung > 0 then call('RPUSH', P .. 'Result_Queue', unpack(rung)) end
publish()
if turned ~= '' and alive(process) and turn(process, queue, turned) == 'now' then
  call('HINCRBY', P .. 'Process:' .. process, 'turn:' .. queue, 1)
  call('LTRIM', P .. queue .. ':taken:' .. process, drop, -1)
end
return told
