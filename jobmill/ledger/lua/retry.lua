-- Ended jobs run again by hand, each as a new run: ARGV = id, … Answer: 'waiting' | the state that forbids it | 'unknown'.
local told = {}
adds()
for i = 1, #ARGV do
  local j = read(ARGV[i])
  if not j then told[i] = 'unknown'
  elseif not ENDED[j.state] then told[i] = j.state
  else
    local had = call('HMGET', j.key, 'exit', 'ended')
    call('HSET', j.key, 'state', 'waiting')
    unindex(j)
    call('RPUSH', j.key .. ':runs', '{"run":' .. j.run .. ',"state":"' .. j.state .. '","time":' .. (had[2] or 0) / 1000 ..
      ',"exit":' .. (had[1] or '{}') .. '}')
    call('HDEL', j.key, 'exit', 'ended', 'wish', 'handle', 'started', 'native', 'retries', 'seals', 'aborts', 'absent',
      'exited', 'exited_at', 'killed', 'blocked', 'host', 'native_state')
    call('HINCRBY', j.key, 'fence', 1)
    call('HSET', j.key, 'run', j.run + 1)
    j.blocked = nil
    line_up(j)
    note(j, 'waiting', j.run + 1)
    told[i] = 'waiting'
  end
end
call('RPUSH', P .. 'Result_Queue', '')
publish()
return told
