-- Hold what has not begun: ARGV = id, … Answer: 'held' | the state that forbids it | 'unknown'.
local told = {}
frees()
for i = 1, #ARGV do
  local j = read(ARGV[i])
  if not j then told[i] = 'unknown'
  elseif j.state == 'held' or not can(j, 'held') then told[i] = j.state
  else
    unindex(j)
    release(j)
    call('HDEL', j.key, 'full')
    call('HINCRBY', j.key, 'fence', 1)
    call('HSET', j.key, 'state', 'held')
    call('ZADD', P .. 'Jobs:held', NOW, j.id)
    note(j, 'held')
    told[i] = 'held'
  end
end
call('RPUSH', P .. 'Result_Queue', '')
publish()
return told
