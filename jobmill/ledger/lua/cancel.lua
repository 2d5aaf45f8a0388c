-- Cancel is a wish (law 7): ARGV = wish (JSON: who, why, time), exit (JSON, for those that end at once), id, …
-- Answer: 'cancelled' (ended now) | 'wished' (stands until absence is proved) | the end state it already has | 'unknown'
-- (nobody knows this id yet; the wish waits a day for it).
local wish, exit, told, rung = ARGV[1], ARGV[2], {}, { '' }
local due = {} -- lanes whose fetchers have something to kill
frees()
for i = 3, #ARGV do
  local j = read(ARGV[i])
  if not j then
    call('SET', P .. 'Wish:' .. ARGV[i], wish, 'EX', 86400)
    told[i - 2] = 'unknown'
  elseif ENDED[j.state] then
    told[i - 2] = j.state
  elseif LAUNCHED[j.state] then
    call('HSETNX', j.key, 'wish', wish)
    if POLLED[j.state] then
      call('ZADD', P .. 'Running_Queue' .. lane(j.system), 0, j.id)
      due[lane(j.system)] = true
    end
    told[i - 2] = 'wished'
  else
    finish(j, 'cancelled', exit)
    call('HSET', j.key, 'wish', wish)
    call('HINCRBY', j.key, 'fence', 1)
    if ring(j) then rung[#rung + 1] = j.id end
    told[i - 2] = 'cancelled'
  end
end
call('RPUSH', P .. 'Result_Queue', unpack(rung))
for suffix in pairs(due) do call('RPUSH', P .. 'Exit_Queue' .. suffix, '') end
publish()
return told
