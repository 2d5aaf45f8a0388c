-- A launch that its starter knows not to have happened goes back: ARGV = 5 values a job: launch, run, fence, delay (ms), why.
-- Costs neither a run nor a retry. A job with a wish is cancelled instead. Answer: 'later' | 'waiting' | 'cancelled' | 'stale'.
local n, told, rung = #ARGV / 5, {}, { '' }
frees()
for e = 1, n do
  local a = (e - 1) * 5
  local j = job_of(ARGV[a + 1])
  if not j or j.run ~= ARGV[a + 2] or j.fence ~= ARGV[a + 3] or (j.state ~= 'starting' and j.state ~= 'granted') then
    told[e] = 'stale'
  elseif j.wish then
    finish(j, 'cancelled', cjson.encode({ exit_status = 'aborted_before_running', reason = 'cancelled', evidence = 'wish',
      message = j.wish }))
    told[e] = 'cancelled'
    if ring(j) then rung[#rung + 1] = j.id end
  else
    local delay = tonumber(ARGV[a + 4])
    told[e] = delay > 0 and 'later' or 'waiting'
    unindex(j)
    release(j)
    call('HDEL', j.key, 'owner', 'handle', 'progress')
    call('HINCRBY', j.key, 'fence', 1)
    call('HINCRBY', j.key, 'aborts', 1)
    call('HSET', j.key, 'state', told[e], 'why', ARGV[a + 5])
    if delay > 0 then call('ZADD', P .. 'Later', NOW + delay, j.id) else wait(j) end
    note(j, told[e])
  end
end
if n > 0 then call('RPUSH', P .. 'Result_Queue', unpack(rung)) end
publish()
return told
