-- It was made sure that this launch never starts: ARGV = 5 values a job: launch, run, fence ('' any of this run), evidence,
-- '1' where this holds only as long as nobody has committed it ('' otherwise): from `starting` alone.
-- The job waits again under the next run number, which is not a retry. Answer: 'waiting' | 'cancelled' | 'stale'.
local n, told, rung = #ARGV / 5, {}, { '' }
frees()
for e = 1, n do
  local a = (e - 1) * 5
  local j = job_of(ARGV[a + 1])
  if not j or j.run ~= ARGV[a + 2] or (ARGV[a + 3] ~= '' and j.fence ~= ARGV[a + 3]) or not LAUNCHED[j.state]
    or (ARGV[a + 5] == '1' and j.state ~= 'starting') then
    told[e] = 'stale'
  elseif j.wish then
    finish(j, 'cancelled', cjson.encode({ exit_status = 'aborted_before_running', reason = 'cancelled',
      evidence = ARGV[a + 4], message = j.wish }))
    told[e] = 'cancelled'
    if ring(j) then rung[#rung + 1] = j.id end
  else
    unindex(j)
    release(j)
    call('RPUSH', j.key .. ':runs', cjson.encode({ run = tonumber(j.run), exit_status = 'aborted_before_running',
      reason = 'sealed', evidence = ARGV[a + 4], time = NOW / 1000 }))
    call('HDEL', j.key, 'owner', 'handle', 'started', 'native', 'progress', 'absent', 'killed', 'host',
      'native_state', 'exited', 'exited_at')
    call('HINCRBY', j.key, 'fence', 1)
    call('HINCRBY', j.key, 'seals', 1)
    call('HSET', j.key, 'run', j.run + 1)
    call('HSET', j.key, 'state', 'waiting')
    wait(j)
    note(j, 'waiting', j.run + 1)
    told[e] = 'waiting'
  end
end
if n > 0 then call('RPUSH', P .. 'Result_Queue', unpack(rung)) end
publish()
return told
